/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tables of one address space: which pages of the source are missing, and where in the process they belong.
 *
 * The map of a space is a memfd: a head with the log of events, the list of chunks, then their bits. It has its final
 * size from the start. The areas are ordinary memory; few, and changed only by events.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "private.h"

#include "util/cleanup.h"

#define MAP_MAGIC UINT64_C(0x70616765737472d1)
#define MAP_SIZE_MAX (UINT64_C(1) << 40)

struct map_head {
	uint64_t magic;
	struct lazy_log log;
	uint64_t count;               /* chunks */
	struct lazy_extent extents[]; /* of each chunk; their bits follow, in words of 64 */
};

/* util/bitmap.h may look at one word behind the last bit. */
static uint64_t words_of(uint64_t pages)
{
	return pages / 64 + 1;
}

static uint64_t head_size(uint64_t count)
{
	return sizeof(struct map_head) + count * sizeof(struct lazy_extent);
}

static int make_map(const struct lazy_extent *extents, size_t count, int *ret_fd, size_t *ret_size)
{
	_cleanup_fd_ int fd = memfd_create("pagestream-missing", MFD_CLOEXEC);
	struct map_head head = { .magic = MAP_MAGIC, .count = count };
	uint64_t size = head_size(count);

	if (fd < 0)
		return -errno;
	for (size_t i = 0; i < count; i++)
		size += words_of(extents[i].pages) * 8;
	if (ftruncate(fd, (off_t)size) < 0)
		return -errno;
	if (pwrite(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
	    pwrite(fd, extents, count * sizeof(*extents), sizeof(head)) != (ssize_t)(count * sizeof(*extents)))
		return -EIO;
	*ret_size = size;
	*ret_fd = steal_fd(&fd);
	return 0;
}

/* Fills in the chunks from the map, which may come from another process: checks it. */
static int read_map(struct lazy_space *space)
{
	struct map_head *head = space->map;
	uint64_t offset, missing = 0;

	if (space->map_size < sizeof(*head) || head->magic != MAP_MAGIC || head->count > space->map_size ||
	    head_size(head->count) > space->map_size)
		return -EBADMSG;
	space->log = &head->log;
	offset = head_size(head->count);
	if (array_reserve(&space->chunks, head->count) < 0)
		return -ENOMEM;
	for (uint64_t i = 0; i < head->count; i++) {
		const struct lazy_extent *extent = &head->extents[i];
		struct lazy_chunk chunk = { .source = extent->source };

		if (extent->pages > (space->map_size - offset) * 8 ||
		    words_of(extent->pages) * 8 > space->map_size - offset)
			return -EBADMSG;
		chunk.missing.words = (uint64_t *)(void *)((char *)space->map + offset);
		chunk.missing.bits = extent->pages;
		if (bitmap_init(&chunk.asked, extent->pages) < 0)
			return -ENOMEM;
		offset += words_of(extent->pages) * 8;
		missing += bitmap_count(&chunk.missing);
		space->chunks.items[space->chunks.count++] = chunk;
	}
	atomic_store(&space->missing, missing);
	return 0;
}

int lazy_space_open(pid_t source_pid, pid_t pid, int uffd, int map_fd, struct lazy_space **ret)
{
	struct lazy_space *space = calloc(1, sizeof(*space));
	struct stat st;
	int r = 0;

	if (!space)
		return -ENOMEM;
	space->source_pid = source_pid;
	space->pid = pid;
	space->uffd = space->map_fd = space->pagemap_fd = -1;
	if (fstat(map_fd, &st) < 0)
		r = -errno;
	else if (st.st_size <= 0 || (uint64_t)st.st_size > MAP_SIZE_MAX)
		r = -EBADMSG;
	if (r == 0) {
		space->map_size = (size_t)st.st_size;
		space->map = mmap(NULL, space->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
		if (space->map == MAP_FAILED) {
			space->map = NULL;
			r = -errno;
		}
	}
	if (r == 0)
		r = read_map(space);
	if (r < 0) {
		lazy_space_free(space);
		return r;
	}
	space->uffd = uffd;
	space->map_fd = map_fd;
	*ret = space;
	return 0;
}

int lazy_space_new(pid_t source_pid, const struct lazy_extent *extents, size_t count, int uffd, struct lazy_space **ret)
{
	_cleanup_fd_ int map_fd = -1;
	struct lazy_space *space = NULL;
	size_t size;
	int r = make_map(extents, count, &map_fd, &size);

	if (r == 0)
		r = lazy_space_open(source_pid, 0, uffd, map_fd, &space);
	if (r < 0)
		return r;
	steal_fd(&map_fd);
	for (size_t i = 0; i < count && r == 0; i++) {
		struct lazy_area area = { extents[i].source, extents[i].source, extents[i].pages };

		r = array_append(&space->areas, area);
	}
	if (r < 0) {
		space->uffd = -1;
		lazy_space_free(space);
		return r;
	}
	*ret = space;
	return 0;
}

int lazy_space_copy(const struct lazy_space *space, int uffd, struct lazy_space **ret)
{
	const struct map_head *head = space->map;
	struct lazy_space *copy;
	int r = lazy_space_new(space->source_pid, head->extents, head->count, uffd, &copy);

	if (r < 0)
		return r;
	if (array_reserve(&copy->areas, space->areas.count) < 0) {
		copy->uffd = -1;
		lazy_space_free(copy);
		return -ENOMEM;
	}
	for (size_t i = 0; i < space->chunks.count; i++)
		memcpy(copy->chunks.items[i].missing.words, space->chunks.items[i].missing.words,
		       words_of(space->chunks.items[i].missing.bits) * 8);
	if (space->areas.count > 0)
		memcpy(copy->areas.items, space->areas.items, space->areas.count * sizeof(struct lazy_area));
	copy->areas.count = space->areas.count;
	atomic_store(&copy->missing, atomic_load(&space->missing));
	*ret = copy;
	return 0;
}

void lazy_space_free(struct lazy_space *space)
{
	if (!space)
		return;
	array_for_each(chunk, &space->chunks)
		bitmap_deinit(&chunk->asked);
	array_deinit(&space->chunks);
	array_deinit(&space->areas);
	array_deinit(&space->staged);
	array_for_each(orphan, &space->orphans)
		close(orphan->uffd);
	array_deinit(&space->orphans);
	if (space->map)
		munmap(space->map, space->map_size);
	if (space->map_fd >= 0)
		close(space->map_fd);
	if (space->pagemap_fd >= 0)
		close(space->pagemap_fd);
	if (space->uffd >= 0)
		close(space->uffd);
	free(space);
}

void lazy_space_set_missing(struct lazy_space *space, uint64_t source, uint64_t pages)
{
	struct lazy_chunk *chunk = lazy_space_find_chunk(space, source);

	bitmap_set_range(&chunk->missing, (source - chunk->source) / LAZY_PAGE, pages);
	atomic_fetch_add(&space->missing, pages);
}

/* First area that ends behind `target`. */
static size_t area_index(const struct lazy_space *space, uint64_t target)
{
	size_t low = 0, high = space->areas.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct lazy_area *area = &space->areas.items[middle];

		if (area->target + area->pages * LAZY_PAGE > target)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

struct lazy_area *lazy_space_find_target(const struct lazy_space *space, uint64_t target)
{
	size_t i = area_index(space, target);

	if (i == space->areas.count || space->areas.items[i].target > target)
		return NULL;
	return &space->areas.items[i];
}

static bool area_has_source(const struct lazy_area *area, uint64_t source)
{
	return source >= area->source && source - area->source < area->pages * LAZY_PAGE;
}

bool lazy_space_locate(const struct lazy_space *space, uint64_t source, uint64_t *ret_target, uint64_t *ret_pages)
{
	/* Most never move: try the address itself before looking at all. */
	const struct lazy_area *area = lazy_space_find_target(space, source);

	if (!area || !area_has_source(area, source)) {
		area = NULL;
		array_for_each(other, &space->areas) {
			if (area_has_source(other, source)) {
				area = other;
				break;
			}
		}
	}
	if (!area)
		return false;
	*ret_target = area->target + (source - area->source);
	*ret_pages = area->pages - (source - area->source) / LAZY_PAGE;
	return true;
}

struct lazy_chunk *lazy_space_find_chunk(const struct lazy_space *space, uint64_t source)
{
	size_t low = 0, high = space->chunks.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		struct lazy_chunk *chunk = &space->chunks.items[middle];

		if (source < chunk->source)
			high = middle;
		else if ((source - chunk->source) / LAZY_PAGE >= chunk->missing.bits)
			low = middle + 1;
		else
			return chunk;
	}
	return NULL;
}

static bool test_bit(const struct bitmap *bitmap, uint64_t bit)
{
	return __atomic_load_n(&bitmap->words[bit / 64], __ATOMIC_RELAXED) >> (bit % 64) & 1;
}

bool lazy_space_is_missing(const struct lazy_space *space, uint64_t source)
{
	const struct lazy_chunk *chunk = lazy_space_find_chunk(space, source);

	return chunk && test_bit(&chunk->missing, (source - chunk->source) / LAZY_PAGE);
}

uint64_t lazy_space_missing_run(const struct lazy_space *space, uint64_t source, uint64_t most)
{
	const struct lazy_chunk *chunk = lazy_space_find_chunk(space, source);
	uint64_t first, run = 0;

	if (!chunk)
		return 0;
	first = (source - chunk->source) / LAZY_PAGE;
	while (run < most && first + run < chunk->missing.bits && test_bit(&chunk->missing, first + run))
		run++;
	return run;
}

bool lazy_space_clear(struct lazy_space *space, uint64_t source, uint64_t pages)
{
	uint64_t cleared = 0;

	while (pages > 0) {
		struct lazy_chunk *chunk = lazy_space_find_chunk(space, source);
		uint64_t bit, mask, old, count;

		if (!chunk)
			break;
		bit = (source - chunk->source) / LAZY_PAGE;
		count = 64 - bit % 64;
		if (count > chunk->missing.bits - bit)
			count = chunk->missing.bits - bit;
		if (count > pages)
			count = pages;
		mask = (count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1) << (bit % 64);
		old = __atomic_fetch_and(&chunk->missing.words[bit / 64], ~mask, __ATOMIC_RELAXED);
		cleared += (uint64_t)__builtin_popcountll(old & mask);
		source += count * LAZY_PAGE;
		pages -= count;
	}
	return cleared > 0 && atomic_fetch_sub(&space->missing, cleared) == cleared;
}

/* Cuts the area that holds `target` inside, in two there. */
static int split_at(struct lazy_space *space, uint64_t target)
{
	size_t i = area_index(space, target);
	struct lazy_area *area, second;
	uint64_t pages;

	if (i == space->areas.count || space->areas.items[i].target >= target)
		return 0;
	if (array_reserve(&space->areas, 1) < 0)
		return -ENOMEM;
	area = &space->areas.items[i];
	pages = (target - area->target) / LAZY_PAGE;
	second = (struct lazy_area){ target, area->source + pages * LAZY_PAGE, area->pages - pages };
	area->pages = pages;
	memmove(area + 2, area + 1, (space->areas.count - i - 1) * sizeof(*area));
	area[1] = second;
	space->areas.count++;
	return 0;
}

/* Makes [start, end) consist of whole areas: those from *ret_first on, *ret_count of them. */
static int carve(struct lazy_space *space, uint64_t start, uint64_t end, size_t *ret_first, size_t *ret_count)
{
	if (split_at(space, start) < 0 || split_at(space, end) < 0)
		return -ENOMEM;
	*ret_first = area_index(space, start);
	*ret_count = 0;
	while (*ret_first + *ret_count < space->areas.count && space->areas.items[*ret_first + *ret_count].target < end)
		++*ret_count;
	return 0;
}

static void remove_areas(struct lazy_space *space, size_t first, size_t count)
{
	struct lazy_area *area = space->areas.items + first;

	if (count == 0)
		return;
	memmove(area, area + count, (space->areas.count - first - count) * sizeof(*area));
	space->areas.count -= count;
}

int lazy_space_unmap(struct lazy_space *space, uint64_t start, uint64_t end)
{
	size_t first, count;
	int r = carve(space, start, end, &first, &count);

	if (r < 0)
		return r;
	for (size_t i = first; i < first + count; i++)
		lazy_space_clear(space, space->areas.items[i].source, space->areas.items[i].pages);
	remove_areas(space, first, count);
	return 0;
}

void lazy_space_empty(struct lazy_space *space, uint64_t start, uint64_t end)
{
	for (size_t i = area_index(space, start); i < space->areas.count; i++) {
		const struct lazy_area *area = &space->areas.items[i];
		uint64_t from = start > area->target ? start : area->target;
		uint64_t to = area->target + area->pages * LAZY_PAGE;

		if (area->target >= end)
			break;
		if (to > end)
			to = end;
		lazy_space_clear(space, area->source + (from - area->target), (to - from) / LAZY_PAGE);
	}
}

int lazy_space_remap(struct lazy_space *space, uint64_t from, uint64_t to, uint64_t size)
{
	_cleanup_free_ struct lazy_area *moved = NULL;
	size_t first, count;
	int r = carve(space, from, from + size, &first, &count);

	if (r < 0 || count == 0)
		return r;
	moved = malloc(count * sizeof(*moved));
	if (!moved)
		return -ENOMEM;
	memcpy(moved, space->areas.items + first, count * sizeof(*moved));
	remove_areas(space, first, count);
	/* What was mapped there has been unmapped, and said so: this finds nothing, unless that was lost. */
	r = lazy_space_unmap(space, to, to + size);
	if (r < 0 || array_reserve(&space->areas, count) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		moved[i].target = moved[i].target - from + to;
	first = area_index(space, to);
	memmove(space->areas.items + first + count, space->areas.items + first,
		(space->areas.count - first) * sizeof(*moved));
	memcpy(space->areas.items + first, moved, count * sizeof(*moved));
	space->areas.count += count;
	return 0;
}
