/* fuzz_wire.c - any head with a right checksum, any tail: the decoder neither reads nor writes beyond, and leaks
 * nothing. */
#include "raft/raft_wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct raft_message message;
    size_t head_len;
    uint8_t *head;
    uint8_t *tail;

    if (size < 2 + RAFT_WIRE_HEAD_FIXED)
        return 0;
    head_len = RAFT_WIRE_HEAD_FIXED + (size_t)(data[0] | data[1] << 8) % (size - 1 - RAFT_WIRE_HEAD_FIXED);
    head = malloc(head_len);
    tail = malloc(size - 2 - head_len + 1);
    if (head == NULL || tail == NULL)
        abort();
    memcpy(head, data + 2, head_len);
    memcpy(tail, data + 2 + head_len, size - 2 - head_len);
    raft_wire_seal(head, head_len);
    if (raft_wire_decode(1, "a", head, head_len, tail, size - 2 - head_len, &message) == 0)
        raft_wire_free(&message);
    free(head);
    return 0;
}
