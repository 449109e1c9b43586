/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The seal: the last file of a checkpoint directory, which says what all others are. Lines of text:
 *
 *   pagestream-seal 1
 *   id HASH                          random, the same for the life of the directory
 *   parent HASH                      id of the directory that it builds upon, if that has a seal
 *   deduplicated HASH                pages were taken out, which the directory of that id has
 *   file SIZE HASH NAME
 *   pages SIZE HASH NAME             HASH is that of the hashes of its chunks, which follow, one a line
 *   - HASH
 *   end HASH                         of everything before this line
 *
 * It is written when all other files are on the disk, to a temporary name, and renamed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "directory-private.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define SEAL_FIRST_LINE "pagestream-seal 1\n"
#define HASH_DIGITS     32
#define LINE_MAX_BYTES  160

/* ---- writing */

static void format_hash(const struct image_hash *hash, char text[HASH_DIGITS + 1])
{
	for (size_t i = 0; i < sizeof(hash->bytes); i++)
		snprintf(text + 2 * i, 3, "%02x", hash->bytes[i]);
}

static int put_line(struct buffer *text, const char *before, const struct image_hash *hash, const char *after)
{
	char line[LINE_MAX_BYTES], digits[HASH_DIGITS + 1];
	int length;

	format_hash(hash, digits);
	length = snprintf(line, sizeof(line), "%s %s%s%s\n", before, digits, *after ? " " : "", after);
	return buffer_append(text, line, (size_t)length);
}

static int put_file(struct buffer *text, struct image_file *file)
{
	char before[48];
	int r;

	if (file->pages)
		image_hash_bytes(file->chunks, file->chunk_count * sizeof(*file->chunks), &file->hash);
	snprintf(before, sizeof(before), "%s %llu", file->pages ? "pages" : "file", (unsigned long long)file->size);
	r = put_line(text, before, &file->hash, file->name);
	for (size_t i = 0; r == 0 && i < file->chunk_count; i++)
		r = put_line(text, "-", &file->chunks[i], "");
	return r;
}

static int put_all(struct image_directory *dir, struct buffer *text)
{
	struct image_hash whole;
	int r;

	r = buffer_append(text, SEAL_FIRST_LINE, strlen(SEAL_FIRST_LINE));
	if (r == 0)
		r = put_line(text, "id", &dir->id, "");
	if (r == 0 && !image_hash_is_zero(&dir->parent_id))
		r = put_line(text, "parent", &dir->parent_id, "");
	if (r == 0 && !image_hash_is_zero(&dir->reader_id))
		r = put_line(text, "deduplicated", &dir->reader_id, "");
	array_for_each(file, &dir->files)
		if (r == 0 && file->name[0])
			r = put_file(text, file);
	if (r < 0)
		return r;
	image_hash_bytes(text->data, text->size, &whole);
	return put_line(text, "end", &whole, "");
}

int image_seal_write(struct image_directory *dir, struct error *error)
{
	_cleanup_buffer_ struct buffer text = BUFFER_INIT;
	int r = put_all(dir, &text);

	if (r == 0)
		r = fdio_replace_file(dir->fd, IMAGE_SEAL_NAME, text.data, text.size, 0600);
	if (r == 0 && fsync(dir->fd) < 0)
		r = -errno;
	return r < 0 ? image_file_errno(dir, IMAGE_SEAL_NAME, error, r, "cannot write") : 0;
}

/* ---- reading */

struct seal_reader {
	struct image_directory *dir;
	const char *at, *end;
	unsigned line;
	struct image_file *last; /* a pages file whose chunks are being read */
};

/* The next line without its newline, in `line`; false at the end or when it is too long. */
static bool next_line(struct seal_reader *reader, char line[LINE_MAX_BYTES])
{
	size_t left = (size_t)(reader->end - reader->at);
	const char *newline = left ? memchr(reader->at, '\n', left) : NULL;
	size_t length = newline ? (size_t)(newline - reader->at) : 0;

	if (!newline || length >= LINE_MAX_BYTES || memchr(reader->at, '\0', length))
		return false;
	memcpy(line, reader->at, length);
	line[length] = '\0';
	reader->at = newline + 1;
	reader->line++;
	return true;
}

static int digit_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Reads a hash and moves `*at` behind it. */
static bool parse_hash(const char **at, struct image_hash *ret)
{
	for (size_t i = 0; i < sizeof(ret->bytes); i++) {
		int high = digit_value((*at)[0]);
		int low = high < 0 ? -1 : digit_value((*at)[1]);

		if (low < 0)
			return false;
		ret->bytes[i] = (uint8_t)(high << 4 | low);
		*at += 2;
	}
	return true;
}

static bool name_is_good(const char *name)
{
	size_t length = strlen(name);

	if (length == 0 || length >= IMAGE_NAME_MAX || name[0] == '.')
		return false;
	for (const char *c = name; *c; c++)
		if (*c <= ' ' || *c > '~' || *c == '/')
			return false;
	return true;
}

static uint64_t chunks_of(uint64_t size)
{
	return (size + IMAGE_CHUNK_SIZE - 1) / IMAGE_CHUNK_SIZE;
}

/* "SIZE HASH NAME" behind "file " or "pages ". */
static bool parse_file(struct seal_reader *reader, const char *text, bool pages)
{
	struct image_file file = { .pages = pages };
	char *end;

	if (reader->dir->files.count >= IMAGE_FILES_MAX || *text < '0' || *text > '9')
		return false;
	errno = 0;
	file.size = strtoull(text, &end, 10);
	text = end;
	if (errno || *text++ != ' ' || file.size > IMAGE_PAGES_FILE_MAX || !parse_hash(&text, &file.hash) ||
	    *text++ != ' ' || !name_is_good(text) || pages != image_file_is_pages(text))
		return false;
	strcpy(file.name, text);
	if (array_append(&reader->dir->files, file) < 0)
		return false;
	reader->last = pages ? &reader->dir->files.items[reader->dir->files.count - 1] : NULL;
	return true;
}

/* All chunks of the file before must be there when the next line begins. */
static bool file_is_whole(const struct seal_reader *reader)
{
	struct image_hash hash;

	if (!reader->last)
		return true;
	if (reader->last->chunk_count != chunks_of(reader->last->size))
		return false;
	image_hash_bytes(reader->last->chunks, reader->last->chunk_count * sizeof(hash), &hash);
	return image_hash_equal(&hash, &reader->last->hash);
}

static bool parse_chunk(struct seal_reader *reader, const char *text)
{
	struct image_file *file = reader->last;
	size_t count = file ? file->chunk_count : 0;

	if (!file || count >= chunks_of(file->size))
		return false;
	/* Room for a power of two: at 1, 2, 4, ... there is none left. */
	if ((count & (count - 1)) == 0) {
		struct image_hash *larger = realloc(file->chunks, (count ? 2 * count : 1) * sizeof(*larger));

		if (!larger)
			return false;
		file->chunks = larger;
	}
	if (!parse_hash(&text, &file->chunks[count]) || *text)
		return false;
	file->chunk_count++;
	return true;
}

static bool parse_line(struct seal_reader *reader, const char *line)
{
	struct image_directory *dir = reader->dir;

	if (strncmp(line, "- ", 2) == 0)
		return parse_chunk(reader, line + 2);
	if (!file_is_whole(reader))
		return false;
	reader->last = NULL;
	if (strncmp(line, "file ", 5) == 0)
		return parse_file(reader, line + 5, false);
	if (strncmp(line, "pages ", 6) == 0)
		return parse_file(reader, line + 6, true);
	if (strncmp(line, "deduplicated ", 13) == 0) {
		line += 13;
		return parse_hash(&line, &dir->reader_id) && !*line;
	}
	if (strncmp(line, "id ", 3) == 0) {
		line += 3;
		return parse_hash(&line, &dir->id) && !*line;
	}
	if (strncmp(line, "parent ", 7) == 0) {
		line += 7;
		return parse_hash(&line, &dir->parent_id) && !*line;
	}
	return false;
}

/* The last line holds the hash of those before it. */
static bool seal_is_whole(const struct buffer *text, size_t *ret_size)
{
	const size_t last = strlen("end ") + HASH_DIGITS + 1;
	struct image_hash is, wanted;
	const char *end;

	if (text->size < last || text->data[text->size - 1] != '\n')
		return false;
	end = (const char *)text->data + text->size - last;
	if (strncmp(end, "end ", 4) != 0)
		return false;
	end += 4;
	if (!parse_hash(&end, &wanted))
		return false;
	image_hash_bytes(text->data, text->size - last, &is);
	*ret_size = text->size - last;
	return image_hash_equal(&is, &wanted);
}

int image_seal_read(struct image_directory *dir, const struct buffer *text, struct error *error)
{
	struct seal_reader reader = { .dir = dir, .at = (const char *)text->data };
	char line[LINE_MAX_BYTES];
	size_t size = 0;

	if (text->size < strlen(SEAL_FIRST_LINE) || memcmp(text->data, SEAL_FIRST_LINE, strlen(SEAL_FIRST_LINE)) != 0)
		return image_file_error(dir, IMAGE_SEAL_NAME, error, -EPROTO,
					"it is no seal of a version that is known here");
	if (!seal_is_whole(text, &size))
		return image_file_error(dir, IMAGE_SEAL_NAME, error, -EBADMSG, "the seal itself is damaged");
	reader.at += strlen(SEAL_FIRST_LINE);
	reader.end = (const char *)text->data + size;
	while (reader.at < reader.end)
		if (!next_line(&reader, line) || !parse_line(&reader, line))
			return image_file_error(dir, IMAGE_SEAL_NAME, error, -EPROTO, "line %u is damaged",
						reader.line + 1);
	if (!file_is_whole(&reader))
		return image_file_error(dir, IMAGE_SEAL_NAME, error, -EPROTO, "it ends in the middle of a file");
	image_files_sort(dir);
	return 0;
}

/* ---- comparing */

#define SEAL_ADVICE "; if it was changed on purpose, empty the seal: : > %s/" IMAGE_SEAL_NAME

static int differs(struct image_directory *dir, const char *name, const char *what, struct error *error)
{
	return error_set(error, -EBADMSG, "%s/%s: %s since the directory was sealed" SEAL_ADVICE, dir->path, name, what,
			 dir->path);
}

static int check_file(struct image_directory *dir, const struct image_file *file, struct error *error)
{
	struct image_hash hash;
	struct stat info;
	char what[96];
	int r;

	if (fstatat(dir->fd, file->name, &info, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return differs(dir, file->name, "it has gone", error);
		return image_file_errno(dir, file->name, error, -errno, "cannot look at it");
	}
	if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size != file->size) {
		snprintf(what, sizeof(what), "its size has changed from %llu to %llu bytes",
			 (unsigned long long)file->size, (unsigned long long)info.st_size);
		return differs(dir, file->name, what, error);
	}
	if (file->pages)
		return 0;
	r = image_file_hash(dir, file->name, file->size, &hash, error);
	if (r < 0)
		return r;
	return image_hash_equal(&hash, &file->hash) ? 0 : differs(dir, file->name, "its content has changed", error);
}

/* An image that nobody knows of would be used all the same. */
static int check_others(struct image_directory *dir, struct error *error)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_dir_ DIR *list = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!list) {
		int r = -errno;

		cleanup_fd(&fd);
		return error_set_errno(error, r, "%s: cannot list it", dir->path);
	}
	while ((entry = readdir(list)))
		if (image_file_is_image(entry->d_name) && strncmp(entry->d_name, "stats-", 6) != 0 &&
		    !image_file_find(dir, entry->d_name))
			return differs(dir, entry->d_name, "it was added", error);
	return 0;
}

int image_seal_check(struct image_directory *dir, struct error *error)
{
	int r = 0;

	array_for_each(file, &dir->files) {
		r = check_file(dir, file, error);
		if (r < 0)
			return r;
	}
	return check_others(dir, error);
}
