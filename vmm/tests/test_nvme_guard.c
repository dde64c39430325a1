/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <string.h>

#include "iommu/base.h"
#include "vmm/nvme_guard.h"

#define RAM	 0x40000000u
#define ASQ	 0xfffe000u /* iova; the queue is at gpa RAM + 0x1000 */
#define ENTRIES	 4u
#define DBBUF	 0x7c
#define UNKNOWN	 0x7f
#define IDENTIFY 0x06

static uint8_t ram[0x4000];
static struct gmem gmem;
static struct nvme_guard guard;

int endpoint_translate(struct endpoint *ep, uint64_t iova, unsigned access, uint64_t *gpa)
{
	(void)ep;
	assert_int_equal(access, MAP_READ);
	if (iova - ASQ < 0x1000)
		*gpa = RAM + 0x1000 + (iova - ASQ);
	else if (iova >> 32 == 5)
		*gpa = iova; /* mapped, but nothing is there */
	else
		return -EFAULT;
	return 0;
}

static int a_controller(void **state)
{
	(void)state;
	memset(ram, 0, sizeof(ram));
	gmem = (struct gmem){0};
	guard = (struct nvme_guard){0};
	return gmem_add(&gmem, RAM, sizeof(ram), ram);
}

static void wr(uint64_t off, unsigned len, uint64_t val)
{
	uint8_t data[8];

	put_le64(data, val);
	nvme_guard_write(&guard, NULL, &gmem, off, data, len);
}

static uint8_t *sqe(unsigned i)
{
	return ram + 0x1000 + 64 * i;
}

static void set_up(void)
{
	wr(0x24, 4, 0x1f0000 | (ENTRIES - 1));
	wr(0x28, 4, ASQ);
	wr(0x2c, 4, 0);
	wr(0x14, 4, 0x460001);
}

static void the_command_is_made_unknown_as_its_doorbell_rings(void **state)
{
	(void)state;
	set_up();
	*sqe(0) = IDENTIFY;
	*sqe(1) = DBBUF;
	*sqe(2) = DBBUF;
	wr(0x1000, 4, 2);
	assert_int_equal(*sqe(0), IDENTIFY);
	assert_int_equal(*sqe(1), UNKNOWN);
	assert_int_equal(*sqe(2), DBBUF); /* not announced yet */
	wr(0x1000, 4, 3);
	assert_int_equal(*sqe(2), UNKNOWN);
}

static void the_queue_wraps_round(void **state)
{
	(void)state;
	set_up();
	wr(0x1000, 4, 3);
	memset(ram, DBBUF, sizeof(ram));
	wr(0x1000, 4, 1);
	assert_int_equal(*sqe(3), UNKNOWN);
	assert_int_equal(*sqe(0), UNKNOWN);
	assert_int_equal(*sqe(1), DBBUF);
	assert_int_equal(*sqe(2), DBBUF);
	assert_int_equal(*sqe(ENTRIES), DBBUF); /* past the queue */
}

static void a_disabled_controller_starts_from_the_first_entry(void **state)
{
	(void)state;
	set_up();
	wr(0x1000, 4, 2);
	wr(0x14, 4, 0x460000);
	wr(0x14, 4, 0x460001);
	*sqe(0) = DBBUF;
	wr(0x1000, 4, 1);
	assert_int_equal(*sqe(0), UNKNOWN);
}

static void the_queues_address_may_come_as_one_or_in_halves(void **state)
{
	(void)state;
	set_up();
	wr(0x28, 8, UINT64_C(0x700000000));
	*sqe(0) = DBBUF;
	wr(0x1000, 4, 1);
	assert_int_equal(*sqe(0), DBBUF);
	wr(0x28, 8, ASQ);
	wr(0x14, 4, 0);
	wr(0x1000, 4, 1);
	assert_int_equal(*sqe(0), UNKNOWN);
}

static void nothing_a_guest_writes_leads_astray(void **state)
{
	static const uint64_t queues[] = {UINT64_C(0x500000000), UINT64_MAX - 63, 0, RAM};

	(void)state;
	memset(ram, DBBUF, sizeof(ram));
	for (unsigned i = 0; i < ARRAY_SIZE(queues); i++) {
		set_up();
		wr(0x28, 8, queues[i]);
		wr(0x24, 4, 0x0fff0fff);
		wr(0x1000, 4, 0xffff);
		wr(0x1000, 4, 0xfff);
		wr(0x24, 4, 0); /* a smaller queue than was rung */
		wr(0x1000, 4, 0);
		wr(0x1000, 2, 1);
		wr(0x1000, 1, 1);
		wr(0x1000, 8, UINT64_MAX);
	}
	for (unsigned i = 0; i < sizeof(ram); i++)
		assert_int_equal(ram[i], DBBUF);
}

#define TEST(fn) cmocka_unit_test_setup(fn, a_controller)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_command_is_made_unknown_as_its_doorbell_rings),
		TEST(the_queue_wraps_round),
		TEST(a_disabled_controller_starts_from_the_first_entry),
		TEST(the_queues_address_may_come_as_one_or_in_halves),
		TEST(nothing_a_guest_writes_leads_astray),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
