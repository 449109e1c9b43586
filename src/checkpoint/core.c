/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A core: ELF header, program headers, notes, then the content of the segments that have any, each at a multiple of the page
 * size. Pages go from the files of the checkpoint to the core a MiB at a time; zeros are not written.
 *
 * It is written to a file beside `path` that is renamed to it at the end, readable for the owner only: there are secrets in
 * it. Failure modes: the checkpoint has no such process, or is damaged where it is read; there is no room.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/procfs.h>
#include <unistd.h>

#include "core-private.h"
#include "fdinfo.pb-c.h"
#include "image/host.h"
#include "regfile.pb-c.h"
#include "util/cleanup.h"
#include "util/fdio.h"

#define CHUNK_PAGES 256

/* ---- what the checkpoint says of the process */

static void process_deinit(struct core_process *process)
{
	array_for_each(thread, &process->threads) {
		image_cleanup_message(&thread->core);
		image_cleanup_message(&thread->extra);
	}
	array_for_each(file, &process->files)
		free(file->name);
	array_for_each(object, &process->objects) {
		image_pages_close(object->reader);
		array_deinit(&object->runs);
	}
	array_deinit(&process->threads);
	array_deinit(&process->files);
	array_deinit(&process->objects);
	array_deinit(&process->pieces);
	array_deinit(&process->segments);
	image_cleanup_message(&process->tree);
	image_cleanup_message(&process->mm);
	image_cleanup_message(&process->extra);
}

static int load_tree(struct core_process *process, uint32_t pid, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;

	while ((record = image_set_next(process->set, IMAGE_PSTREE, IMAGE_ANY, &cursor))) {
		_cleanup_message_ TreeProcess *tree = NULL;
		int r = image_unpack(record, tree_process, &tree, error);

		if (r < 0)
			return r;
		if (tree->pid == pid) {
			process->tree = steal_ptr(&tree);
			return 0;
		}
	}
	return error_set(error, -ESRCH, "there is no PID %u in the checkpoint", pid);
}

/* -ENODATA: there is no such record. */
static int load_record(const struct core_process *process, enum image_type type, uint32_t id,
		       const ProtobufCMessageDescriptor *descriptor, void *ret, struct error *error)
{
	const struct image_record *record = image_set_find(process->set, type, id);

	if (!record)
		return error_set(error, -ENODATA, "the checkpoint has no %s of PID %u", image_type_name(type), id);
	return image_record_unpack(record, descriptor, ret, error);
}

static int load_threads(struct core_process *process, struct error *error)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < process->tree->n_threads; i++) {
		struct core_thread thread = { .tid = process->tree->threads[i] };

		r = load_record(process, IMAGE_CORE, thread.tid, &core__descriptor, &thread.core, error);
		if (r == 0)
			r = load_record(process, IMAGE_THREAD_EXTRA, thread.tid, &thread_extra__descriptor, &thread.extra,
					error);
		if (r == 0 && (!thread.core->thread_info || thread.extra->fxsave.len != sizeof(elf_fpregset_t)))
			r = error_set(error, -EPROTO, "the registers of thread %u are incomplete", thread.tid);
		if (r == 0)
			r = array_append(&process->threads, thread);
		if (r < 0) {
			image_cleanup_message(&thread.core);
			image_cleanup_message(&thread.extra);
		}
	}
	if (r == 0 && process->threads.count == 0)
		r = error_set(error, -EPROTO, "PID %u has no threads in the checkpoint", process->tree->pid);
	return r;
}

static int compare_files(const void *left, const void *right)
{
	const struct core_file *one = left, *other = right;

	return one->id < other->id ? -1 : one->id > other->id;
}

static int load_ghosts(struct core_process *process, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(process->set, IMAGE_REMAP_PATH, IMAGE_ANY, &cursor))) {
		_cleanup_message_ RemapPath *remap = NULL;

		r = image_unpack(record, remap_path, &remap, error);
		if (r < 0 || (remap->has_remap_type && remap->remap_type != REMAP_TYPE__REMAP_GHOST))
			continue;
		array_for_each(file, &process->files)
			if (file->id == remap->orig_id)
				file->ghost = remap->remap_id;
	}
	return r;
}

static int load_files(struct core_process *process, struct error *error)
{
	const struct image_record *record;
	size_t cursor = 0;
	int r = 0;

	while (r == 0 && (record = image_set_next(process->set, IMAGE_FILES, IMAGE_ANY, &cursor))) {
		_cleanup_message_ OpenFile *open_file = NULL;
		struct core_file file;

		r = image_unpack(record, open_file, &open_file, error);
		if (r < 0 || !open_file->reg)
			continue;
		file = (struct core_file){ .id = open_file->id, .name = strdup(open_file->reg->name) };
		if (!file.name || array_append(&process->files, file) < 0) {
			free(file.name);
			return error_set_errno(error, -ENOMEM, "cannot list the files of PID %u", process->tree->pid);
		}
	}
	if (process->files.count)
		qsort(process->files.items, process->files.count, sizeof(*process->files.items), compare_files);
	return r < 0 ? r : load_ghosts(process, error);
}

/* What the source's machine had, and whether this one has the same vDSO. */
static int load_host(struct core_process *process, struct error *error)
{
	const struct image_record *record = image_set_find(process->set, IMAGE_INVENTORY, IMAGE_ANY);
	_cleanup_message_ Inventory *inventory = NULL;
	struct image_host here;
	int r = record ? image_unpack(record, inventory, &inventory, error) : 0;

	if (r < 0 || !inventory || !inventory->host)
		return r;
	process->xcr0 = inventory->host->xcr0;
	if (image_host_read(&here, NULL) == 0 && here.message.vdso_hash == inventory->host->vdso_hash &&
	    here.message.vdso_size == inventory->host->vdso_size) {
		process->vdso = (const uint8_t *)getauxval(AT_SYSINFO_EHDR); /* NOLINT(performance-no-int-to-ptr) */
		process->vdso_size = here.message.vdso_size;
	}
	return 0;
}

static int process_load(struct core_process *process, uint32_t pid, struct error *error)
{
	int r = load_tree(process, pid, error);

	if (r == 0)
		r = load_record(process, IMAGE_MM, pid, &address_space__descriptor, &process->mm, error);
	if (r == 0 && image_set_find(process->set, IMAGE_PROCESS_EXTRA, pid))
		r = load_record(process, IMAGE_PROCESS_EXTRA, pid, &process_extra__descriptor, &process->extra, error);
	if (r == 0)
		r = load_threads(process, error);
	if (r == 0)
		r = load_files(process, error);
	if (r == 0)
		r = load_host(process, error);
	return r < 0 ? r : core_memory_collect(process, error);
}

/* ---- the file */

struct core_output {
	int fd;            /* owned */
	char *path;        /* owned; of the file while it is being written */
	uint64_t size;
	uint8_t *chunk;    /* owned */
};

static void output_deinit(struct core_output *output)
{
	if (output->fd >= 0) {
		unlink(output->path);
		close(output->fd);
	}
	free(output->path);
	free(output->chunk);
}

static int output_begin(struct core_output *output, const char *path, struct error *error)
{
	output->chunk = malloc(CHUNK_PAGES * IMAGE_PAGE_SIZE);
	if (!output->chunk || asprintf(&output->path, "%s.XXXXXX", path) < 0) {
		output->path = NULL;
		return error_set_errno(error, -ENOMEM, "%s", path);
	}
	output->fd = mkostemp(output->path, O_CLOEXEC);
	return output->fd < 0 ? error_set_errno(error, -errno, "%s: cannot make it", path) : 0;
}

static uint64_t round_up(uint64_t number)
{
	return (number + IMAGE_PAGE_SIZE - 1) & ~(IMAGE_PAGE_SIZE - 1);
}

/* Program headers, and in front of them what tells of them. */
static int make_headers(struct core_process *process, uint64_t notes_size, struct buffer *ret, uint64_t *ret_end)
{
	uint64_t count = process->segments.count + 1, tables = sizeof(Elf64_Ehdr) + count * sizeof(Elf64_Phdr);
	bool many = count >= PN_XNUM;
	Elf64_Phdr note = { .p_type = PT_NOTE, .p_offset = tables + (many ? sizeof(Elf64_Shdr) : 0), .p_filesz = notes_size,
			    .p_align = 4 };
	Elf64_Ehdr head = {
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE },
		.e_type = ET_CORE, .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_phoff = sizeof(head),
		.e_ehsize = sizeof(head), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = many ? PN_XNUM : (Elf64_Half)count,
	};
	Elf64_Shdr section = { .sh_type = SHT_NULL, .sh_size = 1, .sh_info = (Elf64_Word)count };
	uint64_t offset = round_up(note.p_offset + notes_size);
	int r;

	if (many) { /* elf(5): the number is in the first section header */
		head.e_shoff = tables;
		head.e_shnum = 1;
		head.e_shentsize = sizeof(section);
	}
	r = buffer_append(ret, &head, sizeof(head));
	if (r == 0)
		r = buffer_append(ret, &note, sizeof(note));
	array_for_each(segment, &process->segments) {
		uint32_t prot = segment->prot;
		Elf64_Phdr load = {
			.p_type = PT_LOAD, .p_offset = offset, .p_vaddr = segment->start, .p_memsz = segment->size,
			.p_filesz = segment->content ? segment->size : 0, .p_align = IMAGE_PAGE_SIZE,
			.p_flags = (prot & PROT_READ ? PF_R : 0) | (prot & PROT_WRITE ? PF_W : 0) |
				   (prot & PROT_EXEC ? PF_X : 0),
		};

		segment->offset = offset;
		offset += load.p_filesz;
		if (r == 0)
			r = buffer_append(ret, &load, sizeof(load));
	}
	if (r == 0 && many)
		r = buffer_append(ret, &section, sizeof(section));
	*ret_end = offset;
	return r;
}

/* Leaves holes where pages are zeros. */
static int write_pages(const struct core_output *output, const uint8_t *pages, uint64_t count, uint64_t offset)
{
	static const uint8_t zeros[IMAGE_PAGE_SIZE];
	uint64_t from = 0;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i <= count; i++) {
		if (i < count && memcmp(pages + i * IMAGE_PAGE_SIZE, zeros, IMAGE_PAGE_SIZE) != 0)
			continue;
		if (i > from)
			r = fdio_pwrite(output->fd, pages + from * IMAGE_PAGE_SIZE, (i - from) * IMAGE_PAGE_SIZE,
					offset + from * IMAGE_PAGE_SIZE);
		from = i + 1;
	}
	return r;
}

static int write_piece(struct core_process *process, const struct core_output *output, const struct core_piece *piece,
		       uint64_t offset, const char *path, struct error *error)
{
	uint64_t at = 0;
	int r = 0;

	if (core_memory_is_zero(process, piece))
		return 0;
	while (r == 0 && at < piece->pages) {
		uint64_t count = piece->pages - at < CHUNK_PAGES ? piece->pages - at : CHUNK_PAGES;

		r = core_memory_read(process, piece, at, count, output->chunk, error);
		if (r == 0) {
			r = write_pages(output, output->chunk, count, offset + at * IMAGE_PAGE_SIZE);
			if (r < 0)
				error_set_errno(error, r, "%s: cannot write it", path);
		}
		at += count;
	}
	return r;
}

static int write_content(struct core_process *process, const struct core_output *output, const char *path, uint64_t *ret_pages,
			 struct error *error)
{
	size_t piece = 0;
	int r = 0;

	array_for_each(segment, &process->segments)
		for (; r == 0 && segment->content && piece < process->pieces.count; piece++) {
			const struct core_piece *part = &process->pieces.items[piece];

			if (part->address >= segment->start + segment->size)
				break;
			r = write_piece(process, output, part, segment->offset + (part->address - segment->start), path, error);
			*ret_pages += part->pages;
		}
	return r;
}

static int write_all(struct core_process *process, struct core_output *output, const char *path, uint64_t *ret_pages,
		     struct error *error)
{
	_cleanup_buffer_ struct buffer notes = BUFFER_INIT, headers = BUFFER_INIT;
	int r = core_notes_make(process, &notes, error);

	if (r < 0)
		return r;
	r = make_headers(process, notes.size, &headers, &output->size);
	if (r < 0)
		return error_set_errno(error, r, "%s", path);
	r = output_begin(output, path, error);
	if (r < 0)
		return r;
	r = fdio_pwrite(output->fd, headers.data, headers.size, 0);
	if (r == 0)
		r = fdio_pwrite(output->fd, notes.data, notes.size, headers.size);
	if (r == 0 && ftruncate(output->fd, (off_t)output->size) < 0)
		r = -errno;
	if (r < 0)
		return error_set_errno(error, r, "%s: cannot write it", path);
	r = write_content(process, output, path, ret_pages, error);
	if (r == 0 && rename(output->path, path) < 0)
		r = error_set_errno(error, -errno, "%s: cannot replace it", path);
	if (r == 0) {
		close(output->fd);
		output->fd = -1;
	}
	return r;
}

int checkpoint_core_write(struct image_directory *dir, uint32_t pid, const char *path, struct checkpoint_core_summary *ret,
			  struct error *error)
{
	struct core_process process = { .set = image_directory_set(dir), .dir = dir };
	struct core_output output = { .fd = -1 };
	uint64_t pages = 0;
	int r = process_load(&process, pid, error);

	if (r == 0)
		r = write_all(&process, &output, path, &pages, error);
	if (r == 0)
		*ret = (struct checkpoint_core_summary){ (uint32_t)process.threads.count, output.size, pages };
	output_deinit(&output);
	process_deinit(&process);
	return r;
}
