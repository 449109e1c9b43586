/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "blockers.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void image_blockers_init(struct image_blockers *blockers)
{
	*blockers = (struct image_blockers){ 0 };
}

static void blocker_deinit(struct image_blocker *blocker)
{
	free(blocker->kind);
	free(blocker->object);
	free(blocker->cause);
	free(blocker->remedy);
}

void image_blockers_deinit(struct image_blockers *blockers)
{
	array_for_each(blocker, &blockers->list)
		blocker_deinit(blocker);
	array_for_each(note, &blockers->notes)
		free(note->text);
	array_deinit(&blockers->list);
	array_deinit(&blockers->notes);
}

static bool blockers_have(const struct image_blockers *blockers, const struct image_blocker *wanted)
{
	array_for_each(blocker, &blockers->list)
		if (blocker->pid == wanted->pid && strcmp(blocker->kind, wanted->kind) == 0 &&
		    strcmp(blocker->object, wanted->object) == 0 && strcmp(blocker->cause, wanted->cause) == 0)
			return true;
	return false;
}

void image_blockers_add(struct image_blockers *blockers, pid_t pid, const char *kind, const char *cause,
			const char *remedy, const char *object, ...)
{
	struct image_blocker blocker = {
		.pid = pid,
		.kind = strdup(kind),
		.cause = strdup(cause),
		.remedy = strdup(remedy),
	};
	va_list arguments;

	va_start(arguments, object);
	if (vasprintf(&blocker.object, object, arguments) < 0)
		blocker.object = NULL;
	va_end(arguments);
	if (!blocker.kind || !blocker.cause || !blocker.remedy || !blocker.object) {
		blockers->incomplete = true;
		blocker_deinit(&blocker);
		return;
	}
	if (blockers_have(blockers, &blocker)) {
		blocker_deinit(&blocker);
		return;
	}
	if (array_append(&blockers->list, blocker) < 0) {
		blockers->incomplete = true;
		blocker_deinit(&blocker);
	}
}

void image_blockers_log(const struct image_blockers *blockers, const struct log *log)
{
	size_t number = 0;

	array_for_each(blocker, &blockers->list) {
		char pid[32] = "";

		if (blocker->pid)
			snprintf(pid, sizeof(pid), "PID %d: ", blocker->pid);
		log_error(log, "%zu. %s%s %s: %s; %s", ++number, pid, blocker->kind, blocker->object, blocker->cause,
			  blocker->remedy);
	}
}

void image_blockers_note(struct image_blockers *blockers, pid_t pid, const char *text, ...)
{
	struct image_note note = { .pid = pid };
	bool known = false;
	va_list arguments;

	va_start(arguments, text);
	if (vasprintf(&note.text, text, arguments) < 0)
		note.text = NULL;
	va_end(arguments);
	array_for_each(other, &blockers->notes)
		known = known || (note.text && strcmp(other->text, note.text) == 0);
	if (!note.text || known || array_append(&blockers->notes, note) < 0)
		free(note.text);
}

void image_blockers_log_notes(const struct image_blockers *blockers, const struct log *log)
{
	array_for_each(note, &blockers->notes)
		log_info(log, "note: PID %d: %s", note->pid, note->text);
}
