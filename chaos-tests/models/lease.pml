/* lease.pml - leases and fencing, with a leader that is paused and a node that lags: PROTOCOL.md 5.1 to 5.5, and L4 to
 * L8 of cluster/lease.h.
 *
 * Three nodes: A leads in term 1 until B is elected in term 2 with the vote of A or C. One delivery is assigned to A or
 * to C (OWNER). Every step of every node may come at any later time (that is the pause, and the lag), messages are lost
 * and late, and time goes on meanwhile. The nodes' clocks run at one rate, so moments are kept as ages: AGED means so long
 * ago that it matters no more, and time has no end. Whether the owner follows (L8) is a leader's choice at each heartbeat:
 * that is more than it may choose.
 *
 * F: whoever writes the final dot still is the one whom the log says the delivery is assigned to.
 *
 * With FIVE=1 there are five nodes: B stands for three of them that the others do not reach, and elect without them.
 *
 * Variants that must be found wrong:
 *   NO_WAIT       a new leader declares nodes down without waiting for leases that its predecessor gave
 *   FROM_ANSWER   a lease counts from the answer, not from when the heartbeat was sent
 *   SELF_RENEW    a leader's own right lasts as long as it believes to lead
 *   GRANT_ALWAYS  a leader gives leases though no majority has echoed it for an election timeout (of five nodes: of
 *                 three, whoever elects another has left its leader)
 *   LAGGING       a node that was declared down gets leases, and uses them before it has applied what it missed
 *   NO_FIRST      a new leader gives leases before an entry of its own term is applied
 *   NO_CONDEMN    a node gets leases while the operation that declares it down is on its way
 *   LENT_BEHIND   a node that beats but does not follow is silent, and gets leases all the same */
#define ELECTION 1
#define LEASE 2
#define TIMEOUT 3 /* LEASE + ELECTION */
#define AGED 2    /* for stamps and heartbeats, which matter for LEASE at most; silence counts up to TIMEOUT */

#ifndef FIVE
#define FIVE 0
#endif

#define A 0
#define B 1
#define C 2
#define NOBODY 3
#ifndef OWNER
#define OWNER 2
#endif

bool assigned = true;      /* by the committed log: the delivery still is its owner's */
bool has = true;           /* the owner has not applied the end of that */
byte term[3] = 1;
bool elected = false;      /* B */
byte elected_age = TIMEOUT;
bool first = false;        /* an entry of B's term is committed, and applied there */
bool late = false;         /* that the owner is down was committed by A: B knows it from `first` on */
bool proposed[2];          /* by leaders A, B: that the owner is down */

byte heard[2] = TIMEOUT;     /* age of the last heartbeat of the owner that reached leader A, B */
byte echoed[2] = AGED;     /* age of the newest own stamp that came back from another node: with itself a majority */

byte lease = 0;            /* what is left of the owner's */
bool lease_waits = false;  /* for the owner to apply that it is down */
byte stamp[3] = AGED;      /* age of the newest of its leader, to be echoed */

byte up_term[3];           /* a heartbeat under way; 0: none */
byte up_sent[3];
byte up_echo[3];
byte down_term[3];         /* an answer */
byte down_sent[3];
byte down_stamp[3];
bool down_ok[3];
bool down_waits[3];

bool follows = true;       /* within a step */

#ifdef GRANT_ALWAYS
#define FRESH(l) true
#else
#define FRESH(l) (echoed[l] < ELECTION || (FIVE && l == 1))
#endif
#ifdef NO_FIRST
#define READY_B true
#else
#define READY_B first
#endif
/* What leaders know of the owner's being down. */
#define DOWN_A (!assigned)
#define DOWN_B (!assigned && (!late || first))
#ifdef LAGGING
#define REFUSED(down) false
#define WAITS(down) false
#else
#define REFUSED(down) (down)
#define WAITS(down) (down)
#endif
#ifdef NO_CONDEMN
#define CONDEMNED(l) false
#else
#define CONDEMNED(l) proposed[l]
#endif
#ifdef LENT_BEHIND
#define LENT true
#else
#define LENT follows
#endif
#ifdef NO_WAIT
#define MAY_DECLARE_B true
#else
#define MAY_DECLARE_B (elected_age >= TIMEOUT && heard[1] >= TIMEOUT)
#endif
#ifdef FROM_ANSWER
#define LEFT(sent) LEASE
#else
#define LEFT(sent) (sent < LEASE -> LEASE - sent : 0)
#endif
#ifdef SELF_RENEW
#define OWN_LEASE true
#else
#define OWN_LEASE (echoed[0] < LEASE)
#endif

inline older(age, most)
{
    if :: age < most -> age++ :: else -> skip fi
}

inline tick()
{
    older(elected_age, TIMEOUT);
    older(heard[0], TIMEOUT); older(heard[1], TIMEOUT);
    older(echoed[0], AGED); older(echoed[1], AGED);
    if :: lease > 0 -> lease-- :: else -> skip fi;
    if :: lease == 0 -> lease_waits = false :: else -> skip fi;
    n = 0;
    do
    :: n < 3 ->
        older(stamp[n], AGED);
        if :: up_term[n] != 0 -> older(up_echo[n], AGED) :: else -> skip fi;
        if :: down_term[n] != 0 -> older(down_stamp[n], AGED) :: else -> skip fi;
        if :: up_term[n] != 0 && n == OWNER -> older(up_sent[n], AGED) :: else -> skip fi;
        if :: down_ok[n] -> older(down_sent[n], AGED) :: else -> skip fi;
        n++
    :: else -> break
    od;
    n = 0
}

inline send(n)
{
    up_term[n] = term[n];
    up_sent[n] = 0;
    up_echo[n] = stamp[n]
}

inline lose_up(n)
{
    up_term[n] = 0; up_sent[n] = 0; up_echo[n] = 0
}

inline lose_down(n)
{
    down_term[n] = 0; down_sent[n] = 0; down_stamp[n] = 0; down_ok[n] = false; down_waits[n] = false
}

/* Leader l takes n's heartbeat and answers. */
inline answer(l, n, is_down, may)
{
    if :: follows = true :: n == OWNER -> follows = false fi;
    if :: n == OWNER && follows -> heard[l] = 0 :: else -> skip fi;
    if
    :: (!FIVE || n == B || l == 1) && up_echo[n] < echoed[l] -> echoed[l] = up_echo[n]
    :: else -> skip
    fi;
    if
    :: down_term[n] = l + 1;
       down_stamp[n] = 0;
       down_ok[n] = n == OWNER && may && LENT && FRESH(l) && !REFUSED(is_down) && !CONDEMNED(l);
       down_sent[n] = (down_ok[n] -> up_sent[n] : 0);
       down_waits[n] = down_ok[n] && WAITS(is_down)
    :: lose_down(n)
    fi;
    follows = true;
    lose_up(n)
}

inline take(n)
{
    if
    :: down_term[n] < term[n] -> skip
    :: else ->
        if
        :: down_term[n] > term[n] -> term[n] = down_term[n]; stamp[n] = AGED
        :: else -> skip
        fi;
        if :: down_stamp[n] < stamp[n] -> stamp[n] = down_stamp[n] :: else -> skip fi;
        if
        :: down_ok[n] && LEFT(down_sent[n]) > lease ->
            lease = LEFT(down_sent[n]);
            lease_waits = down_waits[n]
        :: else -> skip
        fi
    fi;
    lose_down(n)
}

inline vote(n)
{
    elected = true;
    elected_age = 0;
    term[B] = 2; stamp[B] = AGED;
    term[n] = 2; stamp[n] = AGED;
    heard[1] = 0;
    echoed[1] = 0; /* the vote itself */
    if /* the predecessor's proposal is in the log that B goes on with, or not */
    :: proposed[0] -> late = true
    :: proposed[0] = false
    fi
}

inline owner_is_down()
{
    assigned = false
}

#define SENDS(n) (up_term[n] == 0 && term[n] == (n == A -> 2 : (n == B -> 1 : term[n])))

active proctype nodes()
{
    byte n = 0;

end:
    do
    :: atomic { tick() }
    :: atomic { SENDS(A) -> send(A) }
    :: atomic { SENDS(B) -> send(B) }
    :: atomic { SENDS(C) -> send(C) }
    /* taken by the leader of its term; by nobody, if that leads no more */
    :: atomic { up_term[B] == 1 && term[A] == 1 -> answer(0, B, DOWN_A, true) }
    :: atomic { up_term[C] == 1 && term[A] == 1 -> answer(0, C, DOWN_A, true) }
    :: atomic { up_term[A] == 2 -> answer(1, A, DOWN_B, READY_B) }
    :: atomic { up_term[C] == 2 -> answer(1, C, DOWN_B, READY_B) }
    :: atomic { up_term[B] == 1 && term[A] == 2 -> lose_up(B) }
    :: atomic { up_term[C] == 1 && term[A] == 2 -> lose_up(C) }
    :: atomic { down_term[A] != 0 -> take(A) }
    :: atomic { down_term[B] != 0 -> take(B) }
    :: atomic { down_term[C] != 0 -> take(C) }
    /* the election, and news of it */
    :: atomic { !elected && term[A] == 1 -> vote(A) }
    :: atomic { !elected -> vote(C) }
    :: atomic { FIVE && !elected -> vote(B) }
    :: atomic { elected && term[A] == 1 -> term[A] = 2; stamp[A] = AGED }
    :: atomic { elected && term[C] == 1 -> term[C] = 2; stamp[C] = AGED }
    /* down; A's entries commit only while a majority is in its term */
    :: atomic { OWNER == C && term[A] == 1 && assigned && heard[0] >= TIMEOUT -> proposed[0] = true }
    :: atomic { term[A] == 1 && !elected && proposed[0] && assigned -> owner_is_down(); proposed[0] = false; late = true }
    :: atomic { elected && !first ->
                if
                :: proposed[0] && late -> owner_is_down(); proposed[0] = false
                :: else -> skip
                fi;
                first = true }
    :: atomic { elected && assigned && MAY_DECLARE_B && !proposed[1] -> proposed[1] = true }
    :: atomic { elected && first && proposed[1] && assigned -> owner_is_down(); proposed[1] = false }
    :: atomic { has && !assigned -> break } /* applied: nothing of it can go wrong any more */
    /* the final dot */
#if OWNER == 0
    :: atomic { has && term[A] == 1 && OWN_LEASE -> assert(assigned) }
    :: atomic { has && term[A] == 2 && lease > 0 && !lease_waits -> assert(assigned) }
#else
    :: atomic { has && lease > 0 && !lease_waits -> assert(assigned) }
#endif
    od
}
