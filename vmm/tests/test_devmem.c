/* SPDX-License-Identifier: Apache-2.0 */
#include "iommu/tests/check.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/devmem.h"

/* What a device does that does not like an access, a file does behind its end: SIGBUS. */
struct fixture {
	uint8_t *regs, *refused;
	size_t page;
};

static int setup(void **state)
{
	static struct fixture f;
	int fd = memfd_create("device", 0);

	f.page = (size_t)sysconf(_SC_PAGESIZE);
	assert_int_equal(ftruncate(fd, (off_t)f.page), 0);
	f.regs = mmap(NULL, 2 * f.page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(f.regs != MAP_FAILED);
	f.refused = f.regs + f.page;
	close(fd);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	munmap(f->regs, 2 * f->page);
	signal(SIGBUS, SIG_DFL);
	return 0;
}

static void accesses_are_made_at_their_size(void **state)
{
	struct fixture *f = *state;
	uint8_t data[8], want[16];

	for (unsigned len = 1; len <= 8; len *= 2) {
		memset(f->regs, 0xee, 16);
		memset(want, 0xee, 16);
		memcpy(data, "\1\2\3\4\5\6\7\10", 8);
		memcpy(want + 8, data, len);
		assert_int_equal(devmem_write(f->regs + 8, data, len), 0);
		assert_memory_equal(f->regs, want, 16);
		memset(data, 0, 8);
		assert_int_equal(devmem_read(f->regs + 8, data, len), 0);
		assert_memory_equal(data, "\1\2\3\4\5\6\7\10", len);
	}
	assert_int_equal(devmem_read(f->regs, data, 3), -EINVAL);
	assert_int_equal(devmem_write(f->regs, data, 16), -EINVAL);
}

static void an_abort_is_an_error_each_time(void **state)
{
	struct fixture *f = *state;
	uint64_t data = 77;

	devmem_catch_aborts(); /* here: cmocka has a handler of its own around each test */
	for (unsigned i = 0; i < 100; i++) {
		for (unsigned len = 1; len <= 8; len *= 2) {
			assert_int_equal(devmem_read(f->refused, &data, len), -EIO);
			assert_int_equal(data, 77);
			assert_int_equal(devmem_write(f->refused, &data, len), -EIO);
		}
		assert_int_equal(devmem_read(f->regs, &data, 8), 0);
		data = 77;
	}
}

static void *refused_a_thousand_times(void *arg)
{
	struct fixture *f = arg;
	uint64_t data = 0, errors = 0;

	for (unsigned i = 0; i < 1000; i++) {
		errors += devmem_read(f->refused, &data, 4) == -EIO;
		errors += devmem_write(f->regs + 64, &data, 4) == 0;
	}
	return (void *)(uintptr_t)errors;
}

static void threads_have_their_aborts_each(void **state)
{
	pthread_t threads[4];
	void *errors;

	devmem_catch_aborts();
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, refused_a_thousand_times, *state), 0);
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(threads[i], &errors);
		assert_int_equal((uintptr_t)errors, 2000);
	}
}

static void exit_seven(int sig)
{
	(void)sig;
	_exit(7);
}

/* How a child ends that has a bus error of its own. */
static int end_of_child(struct fixture *f)
{
	uint64_t data;
	int status;
	pid_t pid = fork();

	if (!pid) {
		devmem_catch_aborts();
		devmem_catch_aborts();
		devmem_read(f->refused, &data, 8);
		*(volatile uint8_t *)f->refused = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void any_other_bus_error_is_as_deadly_as_it_was(void **state)
{
	struct fixture *f = *state;
	int status;

	signal(SIGBUS, SIG_DFL);
	status = end_of_child(f);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	signal(SIGBUS, exit_seven);
	status = end_of_child(f);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(accesses_are_made_at_their_size, setup, teardown),
		cmocka_unit_test_setup_teardown(an_abort_is_an_error_each_time, setup, teardown),
		cmocka_unit_test_setup_teardown(threads_have_their_aborts_each, setup, teardown),
		cmocka_unit_test_setup_teardown(any_other_bus_error_is_as_deadly_as_it_was, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
