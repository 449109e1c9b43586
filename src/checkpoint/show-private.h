/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of show*.c share: one directory being shown. */
#pragma once

#include "fdinfo.pb-c.h"
#include "image/directory.h"
#include "pstree.pb-c.h"
#include "show.h"
#include "util/array.h"

struct show {
	const char *path;
	struct image_directory *dir;   /* owned; NULL: it cannot be opened */
	const struct image_set *set;   /* of the directory, or `salvaged` */
	struct image_set *salvaged;    /* owned; what could be read all the same */
	json_t *problems;              /* borrowed */
	ARRAY(OpenFile *) files;       /* owned; by id */
};

void show_problem(struct show *show, const char *problem);
/* NULL: the record is damaged (which is noted) or NULL. The caller frees. */
void *show_unpack(struct show *show, const struct image_record *record, const ProtobufCMessageDescriptor *descriptor);
const OpenFile *show_file(const struct show *show, uint64_t id);
/* "0x..." as a string. */
json_t *show_address(uint64_t number);
/* Whole numbers, see show.h. */
json_t *show_number(uint64_t number);
json_t *show_text(const void *text, size_t size);

/* show-process.c */
json_t *show_processes(struct show *show);
/* show-memory.c: {"mappings": [...], totals}; and objects that are no process's own. */
json_t *show_memory(struct show *show, uint32_t pid);
json_t *show_objects(struct show *show);
/* show-files.c: what a process has open. */
json_t *show_descriptors(struct show *show, uint32_t files_id);
/* show-message.c: any message by its descriptor. */
json_t *show_message(const ProtobufCMessage *message);
