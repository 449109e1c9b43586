/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Model. One table: six sets, a chain "arriving" and a chain "leaving" that drop what the sets name, and three hooks that
 * jump there. Arriving packets are looked at twice: before connection tracking (prerouting), which then learns nothing of
 * what is dropped; and again at the input hook, as a socket behind a redirection has another address than the packet had
 * before it.
 *
 * Happy path. The table is written in nft's language, by libnftables, while the program runs: 1 ms. At the freeze there are
 * elements only, and they go through netlink directly: 20 us, and 1.5 us for each (libnftables: 200 us and 7 us). To remove
 * the table costs 0.3 ms. None of these waits for a grace period of RCU.
 *
 * Failure modes. No nf_tables, no permission: net_lock_probe() says it, before anything depends on it. Somebody flushes the
 * ruleset during the move: the table is gone, what follows fails with -ENOENT and the move is taken back.
 */
#include "net/lock.h"

#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/held.h"
#include "net/netlink.h"
#include "util/cleanup.h"

#define PREFIX "pagestream-"
#define SESSION_MAX 64
#define TABLE_SIZE (sizeof(PREFIX) + SESSION_MAX + 16)
#define LIST_MAX (48u << 10) /* bytes of elements in one message: the length of an attribute has 16 bits */

/* In the order of enum net_lock_side. */
static const char *const suffixes[] = { "-source", "-target", "-checkpoint" };

struct net_lock {
	char table[TABLE_SIZE];
	int fd;    /* netlink, owned */
	bool made; /* the table is there */
	struct net_held *held; /* keeps what is dropped on its way in; owned, NULL: nothing does */
	struct net_tuples tuples; /* that it was engaged with */
};

struct set {
	const char *name;
	enum net_tuple_kind kind;
	sa_family_t family;
};

static const struct set sets[] = {
	{ "conn4", NET_TUPLE_CONNECTION, AF_INET },      { "conn6", NET_TUPLE_CONNECTION, AF_INET6 },
	{ "listen4", NET_TUPLE_LISTENING, AF_INET },     { "listen6", NET_TUPLE_LISTENING, AF_INET6 },
	{ "any4", NET_TUPLE_LISTENING_ANY, AF_INET },    { "any6", NET_TUPLE_LISTENING_ANY, AF_INET6 },
};

/* A listener on any address means those of this host, not what it forwards. */
#define SYN "tcp flags & (fin | syn | rst | ack) == syn "
#define TEXT                                                                                                         \
	"table inet %1$s {\n"                                                                                        \
	" set conn4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }\n"                                 \
	" set conn6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }\n"                                 \
	" set listen4 { type ipv4_addr . inet_service; }\n"                                                          \
	" set listen6 { type ipv6_addr . inet_service; }\n"                                                          \
	" set any4 { type inet_service; }\n"                                                                         \
	" set any6 { type inet_service; }\n"                                                                         \
	" chain arriving {\n"                                                                                        \
	"  meta mark %2$u return\n"                                                                                  \
	"  ip daddr . tcp dport . ip saddr . tcp sport @conn4 %3$sdrop\n"                                           \
	"  ip6 daddr . tcp dport . ip6 saddr . tcp sport @conn6 %3$sdrop\n"                                         \
	"  " SYN "ip daddr . tcp dport @listen4 %3$sdrop\n"                                                         \
	"  " SYN "ip6 daddr . tcp dport @listen6 %3$sdrop\n"                                                        \
	"  meta nfproto ipv4 " SYN "tcp dport @any4 fib daddr type local %3$sdrop\n"                                \
	"  meta nfproto ipv6 " SYN "tcp dport @any6 fib daddr type local %3$sdrop\n"                                \
	" }\n"                                                                                                       \
	" chain leaving {\n"                                                                                         \
	"  meta mark %2$u return\n"                                                                                  \
	"  ip saddr . tcp sport . ip daddr . tcp dport @conn4 drop\n"                                                \
	"  ip6 saddr . tcp sport . ip6 daddr . tcp dport @conn6 drop\n"                                              \
	" }\n"                                                                                                       \
	" chain prerouting { type filter hook prerouting priority -450; meta l4proto tcp jump arriving; }\n"         \
	" chain input { type filter hook input priority -450; meta l4proto tcp jump arriving; }\n"                   \
	" chain output { type filter hook output priority -450; meta l4proto tcp jump leaving; }\n"                  \
	"}\n"

static void name_table(char table[TABLE_SIZE], enum net_lock_side side, const char *session)
{
	snprintf(table, TABLE_SIZE, PREFIX "%.*s%s", SESSION_MAX, session, suffixes[side]);
}

/* `log` comes before each drop of what arrives; `extra` follows the table, in the same transaction. */
static int run_nft(const char *table, const char *log, const char *extra, struct error *error)
{
	struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);
	_cleanup_free_ char *text = NULL;
	int r = 0;

	if (!nft)
		return error_set(error, -ENOMEM, "out of memory");
	if (asprintf(&text, TEXT "%4$s", table, NET_LOCK_MARK, log, extra) < 0) {
		text = NULL;
		r = error_set(error, -ENOMEM, "out of memory");
	} else if (nft_ctx_buffer_output(nft) || nft_ctx_buffer_error(nft)) {
		r = error_set(error, -ENOMEM, "out of memory");
	} else if (nft_run_cmd_from_buffer(nft, text)) {
		const char *said = nft_ctx_get_error_buffer(nft);
		const char *line = strstr(said, "rror: ");

		r = -EOPNOTSUPP;
		line = line ? line + strlen("rror: ") : said;
		error_set(error, r, "cannot make a table of nftables: %.*s", (int)strcspn(line, "\n"), line);
	}
	nft_ctx_free(nft);
	return r;
}

int net_lock_new(enum net_lock_side side, const char *session, struct net_lock **ret, struct error *error)
{
	struct net_lock *lock = calloc(1, sizeof(*lock));
	int r;

	if (!lock)
		return error_set(error, -ENOMEM, "out of memory");
	name_table(lock->table, side, session);
	r = netlink_open(&lock->fd, error);
	if (r < 0) {
		free(lock);
		return r;
	}
	*ret = lock;
	return 0;
}

int net_lock_prepare(struct net_lock *lock, struct error *error)
{
	struct error local = ERROR_INIT;
	char log[32];
	uint16_t group;
	int r;

	if (lock->made)
		return 0;
	/* Without it senders wait, and that is all. */
	if (!lock->held && net_held_new(&lock->held, &group, NULL) == 0) {
		snprintf(log, sizeof(log), "log group %u ", group);
		if (run_nft(lock->table, log, "", &local) == 0) {
			lock->made = true;
			return 0;
		}
		net_held_free(lock->held);
		lock->held = NULL;
	}
	r = run_nft(lock->table, "", "", error);
	lock->made = r == 0;
	return r;
}

static void put_part(uint8_t *key, size_t *size, const void *data, size_t part)
{
	memcpy(key + *size, data, part);
	*size += (part + 3) / 4 * 4; /* of a concatenation each part fills registers of 4 bytes */
}

static void put_element(struct netlink_batch *batch, const struct net_tuple *tuple)
{
	size_t ip = tuple->family == AF_INET ? 4 : 16, size = 0;
	uint8_t key[40] = { 0 };
	size_t element = netlink_batch_nest(batch, NFTA_LIST_ELEM), value;

	if (tuple->kind != NET_TUPLE_LISTENING_ANY)
		put_part(key, &size, tuple->local.ip, ip);
	put_part(key, &size, &tuple->local.port, sizeof(tuple->local.port));
	if (tuple->kind == NET_TUPLE_CONNECTION) {
		put_part(key, &size, tuple->remote.ip, ip);
		put_part(key, &size, &tuple->remote.port, sizeof(tuple->remote.port));
	}
	if (tuple->kind == NET_TUPLE_LISTENING_ANY)
		size = sizeof(tuple->local.port);
	value = netlink_batch_nest(batch, NFTA_SET_ELEM_KEY);
	netlink_batch_put(batch, NFTA_DATA_VALUE, key, size);
	netlink_batch_end(batch, value);
	netlink_batch_end(batch, element);
}

static void put_set(struct netlink_batch *batch, const struct net_lock *lock, const struct set *set,
		    const struct net_tuples *tuples)
{
	bool open = false;
	size_t nest = 0;

	array_for_each(tuple, &tuples->list) {
		if (tuple->kind != set->kind || tuple->family != set->family)
			continue;
		if (!open || batch->bytes.size - nest > LIST_MAX) {
			if (open)
				netlink_batch_end(batch, nest);
			netlink_batch_message(batch, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
			netlink_batch_put(batch, NFTA_SET_ELEM_LIST_TABLE, lock->table, strlen(lock->table) + 1);
			netlink_batch_put(batch, NFTA_SET_ELEM_LIST_SET, set->name, strlen(set->name) + 1);
			nest = netlink_batch_nest(batch, NFTA_SET_ELEM_LIST_ELEMENTS);
			open = true;
		}
		put_element(batch, tuple);
	}
	if (open)
		netlink_batch_end(batch, nest);
}

static int remember(struct net_lock *lock, const struct net_tuples *tuples)
{
	if (array_reserve(&lock->tuples.list, tuples->list.count) < 0)
		return -ENOMEM;
	array_for_each(tuple, &tuples->list)
		(void)array_append(&lock->tuples.list, *tuple);
	return 0;
}

int net_lock_engage(struct net_lock *lock, const struct net_tuples *tuples, struct error *error)
{
	_cleanup_batch_ struct netlink_batch batch = { 0 };
	int r;

	if (!tuples->list.count)
		return 0;
	r = net_lock_prepare(lock, error);
	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
		put_set(&batch, lock, &sets[i], tuples);
	if (lock->held)
		r = remember(lock, tuples);
	if (r == 0)
		r = netlink_batch_send(&batch, lock->fd);
	return r < 0 ? error_set_errno(error, r, "cannot lock %zu TCP sockets in the table %s of nftables",
				       tuples->list.count, lock->table) :
		       0;
}

static void put_delete(struct netlink_batch *batch, const char *table)
{
	netlink_batch_message(batch, NFT_MSG_DELTABLE, 0);
	netlink_batch_put(batch, NFTA_TABLE_NAME, table, strlen(table) + 1);
}

static int delete_table(int fd, const char *table, struct error *error)
{
	_cleanup_batch_ struct netlink_batch batch = { 0 };
	int r;

	put_delete(&batch, table);
	r = netlink_batch_send(&batch, fd);
	if (r < 0 && r != -ENOENT && r != -EOPNOTSUPP)
		return error_set_errno(error, r, "cannot remove the table %s of nftables, which holds up connections; "
				       "do it by hand: nft delete table inet %s", table, table);
	return 0;
}

/* libnftables itself tells the user, on stderr, when it may do nothing at all. */
static int try_netlink(const char *table, struct error *error)
{
	_cleanup_batch_ struct netlink_batch batch = { 0 };
	_cleanup_fd_ int fd = -1;
	int r = netlink_open(&fd, error);

	if (r < 0)
		return r == -EPROTONOSUPPORT ? -EOPNOTSUPP : r;
	put_delete(&batch, table);
	r = netlink_batch_send(&batch, fd);
	if (r == -EPERM)
		return error_set(error, r, "nftables cannot be used without CAP_NET_ADMIN");
	if (r == -EOPNOTSUPP || r == -EINVAL)
		return error_set(error, -EOPNOTSUPP, "the kernel has no nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)");
	return r < 0 && r != -ENOENT ? error_set_errno(error, r, "removing the lock on TCP connections (nftables)") : 0;
}

int net_lock_probe(struct error *error)
{
	char table[TABLE_SIZE], undo[TABLE_SIZE + 32];
	int r;

	snprintf(table, sizeof(table), PREFIX "probe-%d", getpid());
	snprintf(undo, sizeof(undo), "delete table inet %s\n", table);
	r = try_netlink(table, error);
	return r < 0 ? r : run_nft(table, "", undo, error);
}

int net_lock_release(struct net_lock *lock, struct error *error)
{
	int r = lock->made ? delete_table(lock->fd, lock->table, error) : 0;

	if (r == 0)
		lock->made = false;
	return r;
}

int net_lock_take_held(struct net_lock *lock, struct buffer *packets)
{
	return lock->held ? net_held_take(lock->held, packets) : 0;
}

int net_lock_give_held(struct net_lock *lock, const uint8_t *packets, size_t size, struct error *error)
{
	_cleanup_buffer_ struct buffer own = BUFFER_INIT;
	int r = net_held_give(packets, size, &lock->tuples, error), more;

	if (r < 0)
		return r;
	if (net_lock_take_held(lock, &own) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	more = net_held_give(own.data, own.size, &lock->tuples, error);
	return more < 0 ? more : r + more;
}

void net_lock_free(struct net_lock *lock)
{
	if (!lock)
		return;
	net_held_free(lock->held);
	net_tuples_deinit(&lock->tuples);
	close(lock->fd);
	free(lock);
}

int net_lock_remove(enum net_lock_side side, const char *session, struct error *error)
{
	_cleanup_fd_ int fd = -1;
	char table[TABLE_SIZE];
	int r = netlink_open(&fd, error);

	if (r == -EPROTONOSUPPORT && error)
		error_clear(error);
	if (r < 0)
		return r == -EPROTONOSUPPORT ? 0 : r;
	name_table(table, side, session);
	return delete_table(fd, table, error);
}

struct stale {
	const char *suffix;
	bool (*is_live)(void *context, const char *session);
	void *context;
	ARRAY(char *) tables; /* owned */
};

static int note_stale(void *context, const char *table)
{
	struct stale *stale = context;
	size_t length = strlen(table), ends = strlen(stale->suffix);
	char session[SESSION_MAX + 1];
	char *copy;

	if (strncmp(table, PREFIX, strlen(PREFIX)) != 0 || length < strlen(PREFIX) + ends ||
	    length - strlen(PREFIX) - ends > SESSION_MAX || strcmp(table + length - ends, stale->suffix) != 0)
		return 0;
	snprintf(session, sizeof(session), "%.*s", (int)(length - strlen(PREFIX) - ends), table + strlen(PREFIX));
	if (stale->is_live(stale->context, session))
		return 0;
	copy = strdup(table);
	if (copy && array_append(&stale->tables, copy) == 0)
		return 0;
	free(copy);
	return -ENOMEM;
}

int net_lock_remove_stale(enum net_lock_side side, bool (*is_live)(void *context, const char *session), void *context,
			  struct error *error)
{
	struct stale stale = { .suffix = suffixes[side], .is_live = is_live, .context = context };
	_cleanup_fd_ int fd = -1;
	int count = 0, r;

	if (netlink_open(&fd, NULL) < 0)
		return 0;
	r = netlink_list_tables(fd, note_stale, &stale);
	if (r == -EPERM || r == -EINVAL || r == -EOPNOTSUPP)
		r = 0;
	if (r < 0)
		error_set_errno(error, r, "cannot list the tables of nftables");
	array_for_each(table, &stale.tables) {
		if (r == 0)
			r = delete_table(fd, *table, error);
		count += r == 0;
		free(*table);
	}
	array_deinit(&stale.tables);
	return r < 0 ? r : count;
}
