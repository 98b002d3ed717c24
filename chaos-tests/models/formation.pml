/* formation.pml - first formation with disks that are wiped meanwhile: PROTOCOL.md 2.1, 2.2.
 *
 * Three nodes. Node 0, the first of `initial`, asks the others and forms a cluster when all have agreed; a formation is
 * a cluster id and the directory ids of its members, and whoever has it hands it on. A wiped disk is an empty node with
 * another directory id. Messages are lost, come late, and outlive the disk that sent them, but not the process that they were
 * sent to: its connections end with it. Then the nodes vote, in one term.
 *
 * F1: never two clusters with a majority of their members' disks at one time.
 * F2: with one disk wiped: when a cluster has had a majority, no other one ever gets one.
 * F3: no term of a cluster has two leaders.
 *
 * Variants that must be found wrong:
 *   MAJORITY_AGREES  node 0 forms when one of the others has agreed
 *   FORMED_AGREE     a node that belongs to a cluster agrees to another one
 *   LATE_ANSWERS     answers to a question are read by the process that runs on the new disk
 *   NO_DIRECTORY     directory ids are not compared: a wiped disk is handed its old place, and votes again */
#ifndef WIPES
#define WIPES 2
#endif
#define DIRECTORIES (3 + WIPES)
#define CLUSTERS 3

byte directory[3];
byte cluster[3];       /* 0: empty */
byte member0[3], member1[3], member2[3]; /* of each node's formation: the directories of nodes 0, 1, 2 */
byte next_directory = 3, next_cluster = 1, wipes = 0;

/* what node 0 knows of the others */
bool seen[3], agreed[3];
byte seen_directory[3];

chan hello[3] = [1] of { byte, bool };             /* to node 0: directory, formed */
chan question[3] = [1] of { byte, byte, byte };    /* from node 0: directories */
chan agree[3] = [1] of { bool };                   /* to node 0 */
chan formation[3] = [1] of { byte, byte, byte, byte };

byte voted[3];        /* whom this disk voted for in the one term; 3: nobody */
bool leads[DIRECTORIES];
byte leader_of = 0;   /* the cluster of the first leader; 0: none */
byte leader_disk = 0;
byte had_majority = 0; /* the first cluster that had one; 0: none */

#define HOLDS(n, c) (cluster[n] == c)
/* Members' disks that still are what the formation says. */
#define COUNT(c) (HOLDS(0, c) + HOLDS(1, c) + HOLDS(2, c))

inline check()
{
    c = 1;
    do
    :: c < next_cluster ->
        if
        :: COUNT(c) >= 2 ->
            if
            :: wipes <= 1 -> assert(had_majority == 0 || had_majority == c) /* F2 */
            :: else -> skip
            fi;
            if
            :: had_majority == 0 -> had_majority = c
            :: else -> skip
            fi
        :: else -> skip
        fi;
        c++
    :: else -> break
    od;
    /* F1: of three nodes no two clusters can hold two each. What is left to see is that a node's disk is one of the
     * members that its formation names. */
    c = 0
}


/* Another process on another disk: its connections are new, what it knew is gone. */
inline restart(n)
{
    if
    :: nempty(formation[n]) -> formation[n]?_, _, _, _
    :: empty(formation[n]) -> skip
    fi;
    if
    :: n == 0 ->
        seen[1] = false; seen[2] = false; agreed[1] = false; agreed[2] = false;
        seen_directory[1] = 0; seen_directory[2] = 0;
#ifndef LATE_ANSWERS
        do
        :: nempty(hello[1]) -> hello[1]?_, _
        :: nempty(hello[2]) -> hello[2]?_, _
        :: nempty(agree[1]) -> agree[1]?_
        :: nempty(agree[2]) -> agree[2]?_
        :: empty(hello[1]) && empty(hello[2]) && empty(agree[1]) && empty(agree[2]) -> break
        od
#else
        skip
#endif
    :: n != 0 ->
        if
        :: nempty(question[n]) -> question[n]?_, _, _
        :: empty(question[n]) -> skip
        fi
    fi
}

inline wipe(n)
{
    wipes++;
    directory[n] = next_directory;
    next_directory++;
    cluster[n] = 0;
    voted[n] = 3;
    restart(n)
}

inline accept(n)
{
    formation[n]?x, d0, d1, d2;
    if
#ifdef NO_DIRECTORY
    :: cluster[n] == 0 ->
#else
    :: cluster[n] == 0 && directory[n] == (n == 0 -> d0 : (n == 1 -> d1 : d2)) ->
#endif
        cluster[n] = x;
        member0[n] = d0; member1[n] = d1; member2[n] = d2;
        check()
    :: else -> skip
    fi;
    x = 0; d0 = 0; d1 = 0; d2 = 0
}

inline hand_on(from, to)
{
    formation[to]!cluster[from], member0[from], member1[from], member2[from]
}

/* Frames of a directory that the formation does not name are dropped. */
#ifdef NO_DIRECTORY
#define KNOWS(n, p) true
#else
#define KNOWS(n, p) (directory[p] == (p == 0 -> member0[n] : (p == 1 -> member1[n] : member2[n])))
#endif

/* n asks p for its vote, and leads with it: two of three. */
inline elect(n, p)
{
    voted[n] = n;
    voted[p] = n;
    assert(leader_of != cluster[n] || leader_disk == directory[n]); /* F3 */
    leader_of = cluster[n];
    leader_disk = directory[n]
}

#define MAY_ELECT(n, p)                                                                                                \
    (cluster[n] != 0 && cluster[p] == cluster[n] && KNOWS(n, p) && KNOWS(p, n) && (voted[n] == 3 || voted[n] == n) &&  \
     (voted[p] == 3 || voted[p] == n) && (leader_of == 0 || leader_of == cluster[n]))

#ifdef FORMED_AGREE
#define MAY_AGREE(n) true
#define COUNTS(formed) true
#else
#define MAY_AGREE(n) (cluster[n] == 0)
#define COUNTS(formed) (!(formed))
#endif
#ifdef MAJORITY_AGREES
#define MAY_ASK(n) seen[n]
#define ENOUGH (agreed[1] || agreed[2])
#else
#define MAY_ASK(n) (seen[1] && seen[2])
#define ENOUGH (agreed[1] && agreed[2])
#endif

active proctype nodes()
{
    byte c = 0, x = 0, d0 = 0, d1 = 0, d2 = 0, n = 0;
    bool is = false;

    atomic {
        directory[0] = 0; directory[1] = 1; directory[2] = 2;
        voted[0] = 3; voted[1] = 3; voted[2] = 3
    }
end:
    do
    /* the others show themselves to node 0; what stands in a channel may be older than a wiped disk */
    :: atomic { nfull(hello[1]) -> hello[1]!directory[1], (cluster[1] != 0) }
    :: atomic { nfull(hello[2]) -> hello[2]!directory[2], (cluster[2] != 0) }
    :: atomic {
        if
        :: nempty(hello[1]) -> n = 1
        :: nempty(hello[2]) -> n = 2
        fi;
        hello[n]?x, is;
        agreed[n] = agreed[n] && seen[n] && seen_directory[n] == x && COUNTS(is);
        seen[n] = COUNTS(is);
        seen_directory[n] = x;
        x = 0; is = false; n = 0
       }
    /* node 0 asks, they agree, it forms */
    :: atomic { cluster[0] == 0 && MAY_ASK(1) && nfull(question[1]) ->
                question[1]!directory[0], seen_directory[1], seen_directory[2] }
    :: atomic { cluster[0] == 0 && MAY_ASK(2) && nfull(question[2]) ->
                question[2]!directory[0], seen_directory[1], seen_directory[2] }
    :: atomic {
        if
        :: nempty(question[1]) -> n = 1
        :: nempty(question[2]) -> n = 2
        fi;
        question[n]?d0, d1, d2;
        if
        :: MAY_AGREE(n) && directory[n] == (n == 1 -> d1 : d2) && len(agree[n]) == 0 -> agree[n]!true
        :: !(MAY_AGREE(n) && directory[n] == (n == 1 -> d1 : d2) && len(agree[n]) == 0) -> skip
        fi;
        d0 = 0; d1 = 0; d2 = 0; n = 0
       }
    :: atomic {
        if
        :: nempty(agree[1]) -> n = 1
        :: nempty(agree[2]) -> n = 2
        fi;
        agree[n]?is;
        agreed[n] = agreed[n] || (seen[n] && cluster[0] == 0);
        is = false; n = 0
       }
    :: atomic {
        cluster[0] == 0 && ENOUGH && next_cluster < CLUSTERS ->
        cluster[0] = next_cluster;
        next_cluster++;
        member0[0] = directory[0]; member1[0] = seen_directory[1]; member2[0] = seen_directory[2];
        check()
       }
    /* whoever is formed hands it on */
    :: atomic { cluster[0] != 0 && nfull(formation[1]) -> hand_on(0, 1) }
    :: atomic { cluster[0] != 0 && nfull(formation[2]) -> hand_on(0, 2) }
    :: atomic { cluster[1] != 0 && nfull(formation[0]) -> hand_on(1, 0) }
    :: atomic { cluster[1] != 0 && nfull(formation[2]) -> hand_on(1, 2) }
    :: atomic { cluster[2] != 0 && nfull(formation[0]) -> hand_on(2, 0) }
    :: atomic { cluster[2] != 0 && nfull(formation[1]) -> hand_on(2, 1) }
    :: atomic { nempty(formation[0]) -> accept(0) }
    :: atomic { nempty(formation[1]) -> accept(1) }
    :: atomic { nempty(formation[2]) -> accept(2) }
    /* votes */
    :: atomic { MAY_ELECT(0, 1) -> elect(0, 1) }
    :: atomic { MAY_ELECT(0, 2) -> elect(0, 2) }
    :: atomic { MAY_ELECT(1, 0) -> elect(1, 0) }
    :: atomic { MAY_ELECT(1, 2) -> elect(1, 2) }
    :: atomic { MAY_ELECT(2, 0) -> elect(2, 0) }
    :: atomic { MAY_ELECT(2, 1) -> elect(2, 1) }
    /* disks */
    :: atomic { wipes < WIPES -> wipe(0) }
    :: atomic { wipes < WIPES -> wipe(1) }
    :: atomic { wipes < WIPES -> wipe(2) }
    od
}
