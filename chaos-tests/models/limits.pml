/* limits.pml - exact limits through changes of the leader: PROTOCOL.md 6.1.
 *
 * Two nodes deliver to one next hop that takes LIMIT connection. A log of assignments and their ends, which each node
 * applies at its own pace. A node connects some time after it applied an assignment of its own, and may keep the
 * connection when the attempt has ended. Its heartbeats say whether it has a connection and what it has applied; they are delayed at
 * will. Leaders change at any time; a new one knows the log and nothing else.
 *
 * S1: never more than LIMIT connections.
 *
 * Variants that must be found wrong:
 *   NO_WAIT          a new leader grants before all nodes have reported
 *   ANY_HEARTBEAT    heartbeats count though their node has not applied the new leader's first entry
 *   NO_STATE         a new leader does not count the attempts that are assigned in the state
 *   END_FREES        a slot is free with the attempt's end, not with the report of its connection's end
 *   OLD_REPORT       a report frees a slot though it was made before the node applied the attempt's end */
#define NODES 2
#define LIMIT 1
#define ENTRIES 6 /* the log's length at most */
#define LEADERS 3

#ifdef NO_WAIT
#define ALL_REPORTED true
#else
#define ALL_REPORTED ((reported[0] || dead[0]) && (reported[1] || dead[1]))
#endif

mtype = { ASSIGN, END_OF, FIRST };
mtype kind[ENTRIES];
byte node_of[ENTRIES];
byte length = 0; /* committed */

byte term = 1;
byte first_entry = 0;      /* of this term: index + 1 */
bool used[NODES];          /* the leader's memory: slots granted or reported */
bool reported[NODES];      /* in this term */
byte freed_after[NODES];   /* a report counts as the end of a slot from this applied index on */

byte applied[NODES];
bool assigned_here[NODES]; /* the node's view of its own attempt */
bool open[NODES];
bool dead[NODES];

chan heartbeats[NODES] = [2] of { byte, bool }; /* applied, open */

inline append(k, n)
{
    kind[length] = k;
    node_of[length] = n;
    length++
}

/* In the state that all entries make: has the node an attempt assigned? */
inline assigned_in_state(n, result)
{
    i = 0;
    result = false;
    do
    :: i < length ->
        if
        :: kind[i] == ASSIGN && node_of[i] == n -> result = true
        :: kind[i] == END_OF && node_of[i] == n -> result = false
        :: else -> skip
        fi;
        i++
    :: else -> break
    od
}

/* A new leader: its first entry, and what it can know. Its predecessor's last proposals may have been committed. */
inline lead()
{
    term++;
    append(FIRST, 0);
    first_entry = length;
    n = 0;
    do
    :: n < NODES ->
        reported[n] = dead[n];
        assigned_in_state(n, is);
#ifdef NO_STATE
        is = false;
#endif
        used[n] = is && !dead[n];
        freed_after[n] = length;
        n++
    :: else -> break
    od;
    n = 0
}

inline hear(n)
{
    heartbeats[n]?at, is;
    if
#ifdef ANY_HEARTBEAT
    :: true ->
#else
    :: at >= first_entry ->
#endif
        reported[n] = true;
        if
        :: is -> used[n] = true
#ifdef OLD_REPORT
        :: !is ->
#else
        :: !is && at >= freed_after[n] ->
#endif
            assigned_in_state(n, is);
            if
            :: !is -> used[n] = false
            :: else -> skip
            fi
        :: else -> skip
        fi
    :: else -> skip
    fi;
    at = 0; is = false; i = 0
}

active proctype leader()
{
    byte n = 0, i = 0, at = 0;
    bool is = false;

end:
    do
    :: atomic { term < LEADERS && length < ENTRIES -> lead(); i = 0; is = false }
    :: atomic { nempty(heartbeats[0]) -> hear(0) }
    :: atomic { nempty(heartbeats[1]) -> hear(1) }
    :: atomic { /* grant; the entry commits at once: a proposal that is lost grants nothing */
        length < ENTRIES - 1 && used[0] + used[1] < LIMIT && ALL_REPORTED ->
        if
        :: !dead[0] -> n = 0
        :: !dead[1] -> n = 1
        fi;
        used[n] = true;
        append(ASSIGN, n);
        freed_after[n] = ENTRIES + 1; /* until its end is known */
        n = 0
       }
    od
}

inline apply(n)
{
    if
    :: kind[applied[n]] == ASSIGN && node_of[applied[n]] == n ->
        assigned_here[n] = true
    :: else -> skip
    fi;
    applied[n]++
}

proctype node(byte n)
{
end:
    do
    :: atomic { !dead[n] && applied[n] < length -> apply(n) }
    :: atomic { /* connects: after a while, look-ups of names take theirs */
        !dead[n] && assigned_here[n] && !open[n] ->
        open[n] = true;
        assert(open[0] + open[1] <= LIMIT) /* S1 */
       }
    :: atomic { /* the attempt ends; the connection stays for the next one or closes later */
        !dead[n] && assigned_here[n] && length < ENTRIES ->
        assigned_here[n] = false;
        append(END_OF, n);
        freed_after[n] = length;
#ifdef END_FREES
        used[n] = false;
#endif
       }
    :: atomic { open[n] && !assigned_here[n] -> open[n] = false }
    :: atomic { !dead[n] && nfull(heartbeats[n]) -> heartbeats[n]!applied[n], open[n] }
    :: atomic { /* dies, and is declared down after its lease (lease.pml): nothing of it is left */
        n == 1 && !dead[n] && length < ENTRIES ->
        dead[n] = true; open[n] = false;
        if
        :: assigned_here[n] -> assigned_here[n] = false; append(END_OF, n)
        :: else -> skip
        fi;
        used[n] = false
       }
    od
}

init {
    atomic {
        reported[0] = true;
        reported[1] = true;
        run node(0);
        run node(1)
    }
}
