/* cancel.pml - cancel against enqueue: PROTOCOL.md 4.1 to 4.3.
 *
 * One message, one acceptor. Operations under way may be lost, held back for any time, and applied in any order; so may
 * the answers. The message is delivered at some time after it is in the queue, and what is finished is forgotten after
 * GRACE. Time goes on whenever it likes.
 *
 * A: a message that was answered 250 is queued or delivered.
 * B: no message is delivered twice.
 * C: one that was answered 451 after its cancel had won is never delivered.
 *
 * Variants, each of which the checker has to find wrong (see run):
 *   NO_TOMBSTONE      a cancel of an unknown id leaves nothing behind
 *   NO_STALE          an enqueue is taken however old its stamp is
 *   STALE_CANCEL      a cancel is taken however old its stamp is
 *   NO_MEMORY         what is delivered is not remembered
 *   UNKNOWN_IS_NO     a cancel whose fate is unknown counts as won
 *   UNKNOWN_IS_YES    an enqueue whose fate is unknown counts as committed */
#define GRACE 1
#define END 3 /* of time */

mtype = { NONE, PRESENT, DELIVERED, CANCELLED };        /* the queue's record of the id */
mtype = { OK, DUPLICATE, REFUSED, STALE, WON, UNKNOWN }; /* fates */
mtype = { OPEN, A250, A451, A451_CANCELLED };           /* what the client read */

byte now = 0;
mtype record = NONE;
byte finished = 0;   /* when */
byte deliveries = 0;
byte enqueues = 0;   /* under way; all have stamp 0 */
byte cancels = 0;
chan fates = [1] of { mtype }; /* the answer that the acceptor waits for */
mtype answer = OPEN;

inline tell(fate)
{
    if
    :: nempty(fates) -> fates?_; fates!fate
    :: empty(fates) -> fates!fate
    :: skip /* lost */
    fi
}

inline apply_enqueue()
{
    if
#ifndef NO_STALE
    :: now > GRACE -> tell(STALE)
    :: else ->
#else
    :: true ->
#endif
        if
        :: record == NONE -> record = PRESENT; tell(OK)
        :: record == PRESENT || record == DELIVERED -> tell(DUPLICATE)
        :: record == CANCELLED -> tell(REFUSED)
        fi
    fi
}

inline apply_cancel()
{
    if
#ifndef STALE_CANCEL
    :: now > GRACE -> tell(STALE)
    :: else ->
#else
    :: true ->
#endif
        if
        :: record == NONE ->
#ifndef NO_TOMBSTONE
            record = CANCELLED; finished = now;
#endif
            tell(WON)
        :: record == CANCELLED -> tell(WON)
        :: record == PRESENT || record == DELIVERED -> tell(DUPLICATE)
        fi
    fi
}

/* The replicated log: whatever is under way is committed, some time or never. */
active proctype log()
{
end:
    do
    :: atomic { enqueues > 0 -> enqueues--; if :: apply_enqueue() :: skip fi }
    :: atomic { cancels > 0 -> cancels--; if :: apply_cancel() :: skip fi }
    :: atomic {
        record == PRESENT ->
        deliveries++;
        assert(deliveries <= 1);            /* B */
        assert(answer != A451_CANCELLED);   /* C */
#ifdef NO_MEMORY
        record = NONE
#else
        record = DELIVERED; finished = now
#endif
       }
    :: atomic { (record == DELIVERED || record == CANCELLED) && now > finished + GRACE -> record = NONE }
    :: atomic { now < END -> now++ }
    od
}

active proctype acceptor()
{
    mtype fate;
    byte tries = 0;

again:
    atomic { enqueues++; tries++ }
    if
    :: fates?fate
    :: fate = UNKNOWN /* the leader is gone, or it took too long */
    fi;
    if
    :: fate == OK || fate == DUPLICATE -> answer = A250; goto done
    :: fate == REFUSED || fate == STALE -> answer = A451; goto done
    :: fate == UNKNOWN ->
#ifdef UNKNOWN_IS_YES
        answer = A250; goto done
#else
        if
        :: tries < 2 -> goto again
        :: true -> skip
        fi
#endif
    :: fate == WON -> assert(false)
    fi;

    cancels++;
    do
    :: fates?fate ->
        if /* an answer to the enqueue may still come in between */
        :: fate == OK || fate == DUPLICATE -> answer = A250; break
        :: fate == WON -> answer = A451_CANCELLED; break
        :: else -> answer = A451; break
        fi
    :: true ->
#ifdef UNKNOWN_IS_NO
        answer = A451_CANCELLED;
#else
        answer = A451;
#endif
        break
    od;
done:
    /* A, C at this moment and, by log's assertions, later */
    atomic {
        assert(answer != A250 || record == PRESENT || deliveries > 0);
        assert(answer != A451_CANCELLED || (record != PRESENT && deliveries == 0))
    }
}
