/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file header, the program headers and the notes are read with one pread each; whatever does
 * not fit the expected shape is "no build-id", since any file may come this way.
 */
#include "image/build-id.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "util/fdio.h"

#define HEADERS_MAX 64
#define NOTES_MAX   4096

static int search_notes(const uint8_t *notes, size_t size, uint8_t id[IMAGE_BUILD_ID_MAX])
{
	size_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		size_t name, content;

		memcpy(&note, notes + at, sizeof(note));
		name = at + sizeof(note);
		content = name + (((size_t)note.n_namesz + 3) & ~(size_t)3);
		at = content + (((size_t)note.n_descsz + 3) & ~(size_t)3);
		if (at > size)
			return 0;
		if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 ||
		    memcmp(notes + name, "GNU", 4) != 0)
			continue;
		if (note.n_descsz > IMAGE_BUILD_ID_MAX)
			return 0;
		memcpy(id, notes + content, note.n_descsz);
		return (int)note.n_descsz;
	}
	return 0;
}

int image_build_id_read(int fd, uint8_t id[IMAGE_BUILD_ID_MAX])
{
	Elf64_Phdr headers[HEADERS_MAX];
	uint8_t notes[NOTES_MAX];
	Elf64_Ehdr elf;
	size_t count;
	ssize_t n;
	int r;

	n = fdio_pread(fd, &elf, sizeof(elf), 0);
	if (n < 0)
		return (int)n;
	if (n < (ssize_t)sizeof(elf) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
	    elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_phentsize != sizeof(headers[0]))
		return 0;
	count = elf.e_phnum < HEADERS_MAX ? elf.e_phnum : HEADERS_MAX;
	n = fdio_pread(fd, headers, count * sizeof(headers[0]), elf.e_phoff);
	if (n < 0)
		return (int)n;
	count = (size_t)n / sizeof(headers[0]);
	for (size_t i = 0; i < count; i++) {
		if (headers[i].p_type != PT_NOTE)
			continue;
		n = fdio_pread(fd, notes,
			       headers[i].p_filesz < sizeof(notes) ? headers[i].p_filesz
								   : sizeof(notes),
			       headers[i].p_offset);
		if (n < 0)
			return (int)n;
		r = search_notes(notes, (size_t)n, id);
		if (r != 0)
			return r;
	}
	return 0;
}
