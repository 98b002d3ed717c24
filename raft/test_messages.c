/* test_messages.c - replicas and messages that come late, lie, or belong to another log. */
#include "raft/raft_wire.h"
#include "raft/replica_send.h"
#include "raft/test_cluster.h"

/* The answer to a pre-vote carries the term that the vote would have been for. Who has become leader or follower in the
 * meantime takes nothing from it: neither that term, nor what libraft finds where a candidate's state was. */
static void ignores_late_votes(void **state)
{
    struct cluster *c = cluster_start(0xfee, 0);
    struct node *leader = leader_of(c);
    uint64_t term;
    (void)state;

    load_cluster(c, 100, 16, 100, 60);
    term = replica_term(leader->replica);
    for (unsigned i = 0; i < NODES; i++) {
        for (unsigned granted = 0; granted < 2; granted++) {
            struct raft_message m = {.type = RAFT_REQUEST_VOTE_RESULT};
            uint8_t *head;
            size_t len;

            m.request_vote_result.version = 2;
            m.request_vote_result.term = term + 1;
            m.request_vote_result.vote_granted = granted != 0;
            m.request_vote_result.pre_vote = true;
            assert_int_equal(raft_wire_encode(&m, &head, &len), 0);
            assert_int_equal(replica_receive(c->nodes[i].replica, (i + 1) % NODES + 1, head, len, NULL, 0), MR_OK);
            free(head);
            assert_true(replica_term(c->nodes[i].replica) == term);
        }
    }
    assert_ptr_equal(leader_of(c), leader);
    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* The answer to a pre-vote that was refused: of how old a term the asker knows. 0: none is on its way. */
static uint64_t refusal_on_its_way(struct cluster *c, unsigned from, unsigned to)
{
    uint64_t term = 0;

    for (const struct packet *p = c->lanes[from][to][0].first; p != NULL; p = p->next) {
        struct raft_message m = {0};
        if (p->tail_len != 0 || raft_wire_decode(from + 1, "node", p->head, p->head_len, NULL, 0, &m) != 0)
            continue;
        if (m.type == RAFT_REQUEST_VOTE_RESULT && m.request_vote_result.pre_vote) {
            assert_false(m.request_vote_result.vote_granted);
            term = m.request_vote_result.term;
        }
        raft_wire_free(&m);
    }
    return term;
}

/* Whose log is the only one that can win must learn how far terms have gone, or there is never a leader. */
static void tells_the_term_with_a_refused_pre_vote(void **state)
{
    struct cluster *c = cluster_start(0xffd, 0);
    unsigned follower = (leader_of(c)->number + 1) % NODES, asker = (follower + 1) % NODES;
    uint64_t term = replica_term(c->nodes[follower].replica);
    struct raft_message m = {.type = RAFT_REQUEST_VOTE};
    uint8_t *head;
    size_t len;
    (void)state;

    assert_true(term >= 2);
    m.request_vote.version = 2;
    m.request_vote.term = term - 1;
    m.request_vote.candidate_id = asker + 1;
    m.request_vote.last_log_index = 1000;
    m.request_vote.last_log_term = term - 1;
    m.request_vote.pre_vote = true;
    assert_int_equal(raft_wire_encode(&m, &head, &len), 0);
    assert_int_equal(replica_receive(c->nodes[follower].replica, asker + 1, head, len, NULL, 0), MR_OK);
    free(head);
    assert_true(refusal_on_its_way(c, follower, asker) == term);
    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* From a leader whose log is another one: a lost directory, two clusters under one name. What is committed here stays,
 * and libraft, which would free the entries twice, does not see the message. */
static void refuses_what_contradicts_the_committed(void **state)
{
    struct cluster *c = cluster_start(0xfef, 0);
    struct node *leader = leader_of(c);
    struct node *follower = &c->nodes[(leader->number + 1) % NODES];
    uint64_t term = replica_term(leader->replica), hash;
    (void)state;

    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    hash = follower->machine.hash;
    for (unsigned which = 0; which < 2; which++) { /* the entry before, an entry */
        struct raft_message m = {.type = RAFT_APPEND_ENTRIES};
        uint8_t data[16] = {4, 0, 0, 0, 'l', 'i', 'e', 's'};
        struct raft_entry entries[2] = {{.term = term + 1, .type = RAFT_COMMAND, .buf = {data, sizeof(data)}}};
        uint8_t *head;
        size_t len;

        entries[1] = entries[0];
        m.append_entries.term = term + 1;
        m.append_entries.prev_log_index = replica_commit(follower->replica) - 1;
        m.append_entries.prev_log_term = which == 0 ? term + 1 : term;
        m.append_entries.leader_commit = m.append_entries.prev_log_index;
        m.append_entries.entries = entries;
        m.append_entries.n_entries = 2;
        assert_int_equal(raft_wire_encode(&m, &head, &len), 0);
        uint8_t tail[2 * sizeof(data)];
        memcpy(tail, data, sizeof(data));
        memcpy(tail + sizeof(data), data, sizeof(data));
        assert_int_equal(replica_receive(follower->replica, leader->number + 1, head, len, tail, sizeof(tail)),
                         MR_MALFORMED);
        free(head);
    }
    assert_true(replica_term(follower->replica) == term && follower->machine.hash == hash);
    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* A heartbeat that was long on its way ends before what is committed here, and knows of more: the commit index does not
 * go back to its end (UPSTREAM.md 30). */
static void keeps_what_is_committed(void **state)
{
    enum { BACK = 20 };
    struct cluster *c = cluster_start(0xc0de, 0);
    struct node *leader = leader_of(c);
    struct node *follower = &c->nodes[(leader->number + 1) % NODES];
    struct raft_message m = {.type = RAFT_APPEND_ENTRIES};
    uint64_t commit;
    uint8_t *head;
    size_t len;
    (void)state;

    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    commit = replica_commit(follower->replica);
    assert_true(commit > BACK);
    m.append_entries.term = replica_term(leader->replica);
    m.append_entries.prev_log_index = commit - BACK;
    m.append_entries.prev_log_term = m.append_entries.term;
    m.append_entries.leader_commit = commit + BACK;
    assert_int_equal(raft_wire_encode(&m, &head, &len), 0);
    assert_int_equal(replica_receive(follower->replica, leader->number + 1, head, len, NULL, 0), MR_OK);
    free(head);
    assert_int_equal(replica_commit(follower->replica), commit);
    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* A leader begins before what the follower has in its snapshot alone: with entries that end in it, then with some
 * beyond it too (UPSTREAM.md 40). */
static void skips_what_only_the_snapshot_has(void **state)
{
    enum { FEW = 3, LEN = 16, MOST = 4000 };
    struct cluster *c = cluster_start_with(0x5ca1, 0, 100, 10);
    struct node *leader = leader_of(c);
    struct node *follower = &c->nodes[(leader->number + 1) % NODES];
    static struct raft_entry entries[MOST];
    static uint8_t tail[MOST * LEN];
    uint8_t data[LEN] = {4, 0, 0, 0, 'l', 'a', 't', 'e'};
    struct replica_stats stats;
    uint64_t hash;
    (void)state;

    do {
        load_cluster(c, 200, 16, 100, 60);
        replica_stats(follower->replica, &stats);
    } while (stats.snapshots_taken == 0);
    assert_converges(c, 20);
    hash = follower->machine.hash;
    uint64_t commit = replica_commit(follower->replica), term = replica_term(leader->replica);
    assert_in_range(commit, 100, MOST);
    for (unsigned i = 0; i < commit; i++) {
        entries[i] = (struct raft_entry){.term = term, .type = RAFT_COMMAND, .buf = {data, LEN}};
        memcpy(tail + (size_t)i * LEN, data, LEN);
    }
    for (unsigned which = 0; which < 2; which++) {
        struct raft_message m = {.type = RAFT_APPEND_ENTRIES};
        uint8_t *head;
        size_t len;

        m.append_entries.term = term;
        m.append_entries.leader_commit = commit;
        m.append_entries.entries = entries;
        m.append_entries.n_entries = which == 0 ? FEW : (unsigned)commit;
        assert_int_equal(raft_wire_encode(&m, &head, &len), 0);
        assert_int_equal(replica_receive(follower->replica, leader->number + 1, head, len, tail,
                                         (size_t)m.append_entries.n_entries * LEN),
                         MR_OK);
        free(head);
        assert_true(replica_last(follower->replica) == commit);
    }
    assert_true(replica_commit(follower->replica) == commit && follower->machine.hash == hash);
    load_cluster(c, 100, 16, 100, 60);
    assert_converges(c, 20);
    cluster_stop(c);
}

/* What a leader's libraft sees of it, another peer having answered meanwhile. */
static struct raft_append_entries_result filtered(struct replica_send *s, uint64_t term, uint64_t rejected,
                                                  uint64_t last)
{
    struct raft_append_entries_result other = {.term = term, .last_log_index = 50}, result = {.term = term};

    replica_send_filter(s, 3, 100, &other);
    result.rejected = rejected;
    result.last_log_index = last;
    replica_send_filter(s, 2, 100, &result);
    return result;
}

/* A rejection that comes late, or twice, would set the leader back behind what the peer has acknowledged since. */
static void ignores_late_rejections(void **state)
{
    uv_loop_t loop;
    struct replica_send s = {.loop = &loop};
    struct raft_append_entries_result result;
    (void)state;

    assert_int_equal(uv_loop_init(&loop), 0);
    result = filtered(&s, 3, 10, 5); /* the first time it is news */
    assert_true(result.rejected == 10 && result.last_log_index == 5);
    result = filtered(&s, 3, 0, 10);
    assert_true(result.rejected == 0 && result.last_log_index == 10);
    result = filtered(&s, 3, 10, 5);
    assert_true(result.rejected == 0 && result.last_log_index == 0);
    result = filtered(&s, 3, 12, 10);
    assert_true(result.rejected == 12 && result.last_log_index == 10);
    result = filtered(&s, 4, 10, 5); /* another term: what it had then may have been replaced */
    assert_true(result.rejected == 10 && result.last_log_index == 5);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ignores_late_votes),
        cmocka_unit_test(tells_the_term_with_a_refused_pre_vote),
        cmocka_unit_test(refuses_what_contradicts_the_committed),
        cmocka_unit_test(keeps_what_is_committed),
        cmocka_unit_test(skips_what_only_the_snapshot_has),
        cmocka_unit_test(ignores_late_rejections),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
