/* error.h - the one list of error codes.
 *
 * Functions return 0 or one of these, negative. Three failures are kept apart: what is expected has a code here;
 * the environment's (disk, network, peer) has a code here and a line in the log; a bug or lost durability ends the
 * process (panic.h) and never becomes a code.
 * Thread: any. */
#ifndef MR_BASE_ERROR_H
#define MR_BASE_ERROR_H

#define MR_ERROR_MAP(X)                                                                                                \
    X(MR_OK, 0, "success")                                                                                             \
    X(MR_NOMEM, -1, "out of memory")                                                                                   \
    X(MR_INVAL, -2, "invalid argument or value")                                                                       \
    X(MR_MALFORMED, -3, "malformed data")                                                                              \
    X(MR_CHECKSUM, -4, "checksum does not match")                                                                      \
    X(MR_VERSION, -5, "unknown version")                                                                               \
    X(MR_IO, -6, "input/output error")                                                                                 \
    X(MR_NOSPACE, -7, "not enough disk space")                                                                         \
    X(MR_LIMIT, -8, "over a limit")                                                                                    \
    X(MR_BUSY, -9, "too much queued, try later")                                                                       \
    X(MR_NOTFOUND, -10, "not found")                                                                                   \
    X(MR_EXISTS, -11, "exists already")                                                                                \
    X(MR_CLOSED, -12, "closed")                                                                                        \
    X(MR_CANCELLED, -13, "cancelled")                                                                                  \
    X(MR_TIMEOUT, -14, "timed out")                                                                                    \
    X(MR_NOTLEADER, -15, "not the leader")                                                                             \
    X(MR_NOQUORUM, -16, "no quorum")                                                                                   \
    X(MR_UNKNOWN, -17, "fate unknown")                                                                                 \
    X(MR_REFUSED, -18, "refused")                                                                                      \
    X(MR_UNREACHABLE, -19, "unreachable")                                                                              \
    X(MR_TLS, -20, "TLS failure")                                                                                      \
    X(MR_CONFIG, -21, "configuration is wrong")                                                                        \
    X(MR_STALE, -22, "too old")                                                                                        \
    X(MR_NOLEASE, -23, "no lease")                                                                                     \
    X(MR_MORE, -24, "more input needed")

enum mr_error {
#define MR_ERROR_ENUM(name, value, text) name = value,
    MR_ERROR_MAP(MR_ERROR_ENUM)
#undef MR_ERROR_ENUM
};

/* Text of a code; "unknown error" for a number that is none. Static memory. */
const char *mr_strerror(int code);

#endif
