#include "proto/base/id_stock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void a_stock_gives_each_once(void **state)
{
    enum { N = 3 * MR_ID_STOCK + 1 };
    struct mr_id_stock stock = {.left = 0};
    struct mr_id ids[N];
    (void)state;
    for (int i = 0; i < N; i++) {
        static const uint8_t front[6] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xAB};
        ids[i] = mr_id_take(&stock, 0x0123456789ABULL);
        assert_memory_equal(ids[i].bytes, front, sizeof(front));
        for (int k = 0; k < i; k++)
            assert_false(mr_id_equal(ids[i], ids[k]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stock_gives_each_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
