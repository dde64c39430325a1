/* SPDX-License-Identifier: Apache-2.0 */
/* Threads play vCPUs: their guest code goes on until they are told to leave, as KVM_RUN does. */
#include "iommu/tests/check.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#include "iommu/base.h"
#include "vmm/hold.h"

#define NR_CPUS	   4
#define NR_HOLDERS 3
#define WAIT_S	   60 /* for what hangs, not a measure */

#ifdef __SANITIZE_THREAD__
#define ROUNDS 200
#else
#define ROUNDS 1000
#endif

struct cpu {
	struct hold_seat seat;
	pthread_t thread;
	uint8_t leave_at_once;
	pthread_mutex_t lock; /* what a signal is to a thread in KVM_RUN: it ends the wait */
	pthread_cond_t signal;
	bool signalled;
	bool idle;	      /* the guest waits for interrupts */
	atomic_bool in_guest; /* guest code runs */
	atomic_ulong runs;
	unsigned long own_holds; /* in its own exits */
	unsigned exits;
};

static struct hold hold;
static struct cpu cpus[NR_CPUS];
static uint64_t memory[2]; /* always the same, to whoever is in the guest */
static pthread_mutex_t mediator = PTHREAD_MUTEX_INITIALIZER;

static void kick(void *ctx)
{
	struct cpu *cpu = ctx;

	pthread_mutex_lock(&cpu->lock);
	cpu->signalled = true;
	pthread_cond_signal(&cpu->signal);
	pthread_mutex_unlock(&cpu->lock);
}

/* KVM_RUN: looks at the flag first, and comes back when there is a signal. */
static void guest(struct cpu *cpu)
{
	uint64_t first;

	pthread_mutex_lock(&cpu->lock);
	while (!__atomic_load_n(&cpu->leave_at_once, __ATOMIC_SEQ_CST) && !cpu->signalled) {
		pthread_mutex_unlock(&cpu->lock);
		cpu->in_guest = true;
		first = __atomic_load_n(&memory[0], __ATOMIC_RELAXED);
		sched_yield();
		if (__atomic_load_n(&memory[1], __ATOMIC_RELAXED) != first)
			fail_msg("half of a change was seen");
		cpu->in_guest = false;
		pthread_mutex_lock(&cpu->lock);
		cpu->runs++;
		/* An exit of its own now and then. */
		if (!cpu->idle && ++cpu->exits % 16 == 0)
			break;
		while (cpu->idle && !cpu->signalled)
			pthread_cond_wait(&cpu->signal, &cpu->lock);
	}
	cpu->signalled = false;
	pthread_mutex_unlock(&cpu->lock);
}

static void change(void)
{
	pthread_mutex_lock(&mediator);
	hold_take(&hold);
	for (unsigned i = 0; i < NR_CPUS; i++)
		assert_false(cpus[i].in_guest);
	__atomic_fetch_add(&memory[0], 1, __ATOMIC_RELAXED);
	sched_yield();
	__atomic_fetch_add(&memory[1], 1, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < NR_CPUS; i++)
		assert_false(cpus[i].in_guest);
	hold_release(&hold);
	pthread_mutex_unlock(&mediator);
}

static void *run_cpu(void *ctx)
{
	struct cpu *cpu = ctx;

	while (hold_enter(&cpu->seat)) {
		guest(cpu);
		hold_leave(&cpu->seat);
		/* A register access: a sync point. */
		if (!cpu->idle && cpu->exits % 64 == 0) {
			change();
			cpu->own_holds++;
		}
	}
	hold_end(&cpu->seat);
	return NULL;
}

static void *run_holder(void *ctx)
{
	const unsigned *rounds = ctx;

	for (unsigned i = 0; i < *rounds; i++)
		change();
	return NULL;
}

static int power_on(void **state)
{
	(void)state;
	memset(memory, 0, sizeof(memory));
	hold_init(&hold);
	for (unsigned i = 0; i < NR_CPUS; i++) {
		cpus[i] = (struct cpu){.lock = PTHREAD_MUTEX_INITIALIZER,
				       .signal = PTHREAD_COND_INITIALIZER,
				       .idle = i == NR_CPUS - 1};
		hold_add(&hold, &cpus[i].seat, &cpus[i].leave_at_once, kick, &cpus[i]);
	}
	return 0;
}

static int power_off(void **state)
{
	(void)state;
	hold_fini(&hold);
	return 0;
}

static void start_cpus(void)
{
	for (unsigned i = 0; i < NR_CPUS; i++)
		assert_int_equal(pthread_create(&cpus[i].thread, NULL, run_cpu, &cpus[i]), 0);
}

static void stop_cpus(void)
{
	for (unsigned i = 0; i < NR_CPUS; i++)
		hold_stop(&cpus[i].seat);
	for (unsigned i = 0; i < NR_CPUS; i++)
		pthread_join(cpus[i].thread, NULL);
}

/* Holders of their own, and vCPUs that hold in their exits, beside one that sleeps. */
static void nobody_is_in_the_guest_while_somebody_holds(void **state)
{
	unsigned rounds = ROUNDS;
	pthread_t holders[NR_HOLDERS];

	(void)state;
	start_cpus();
	for (unsigned i = 0; i < NR_HOLDERS; i++)
		assert_int_equal(pthread_create(&holders[i], NULL, run_holder, &rounds), 0);
	for (unsigned i = 0; i < NR_HOLDERS; i++)
		pthread_join(holders[i], NULL);
	stop_cpus();
	assert_true(memory[0] >= NR_HOLDERS * ROUNDS);
	assert_int_equal(memory[0], memory[1]);
	assert_int_equal(hold.held, 0);
}

static void vcpus_go_on_afterwards(void **state)
{
	time_t end = time(NULL) + WAIT_S;

	(void)state;
	start_cpus();
	for (unsigned i = 0; i < 100; i++) {
		unsigned long before[NR_CPUS];

		change();
		for (unsigned c = 0; c < NR_CPUS; c++)
			before[c] = cpus[c].runs;
		for (unsigned c = 0; c < NR_CPUS - 1; c++)
			while (cpus[c].runs == before[c])
				assert_true(time(NULL) < end);
	}
	stop_cpus();
}

/* It is not in the guest: who holds does not wait for it. */
static void a_vcpu_that_is_out_counts_as_held(void **state)
{
	(void)state;
	/* No thread at all, and one whose thread is this. */
	hold_take(&hold);
	hold_take(&hold);
	hold_release(&hold);
	hold_release(&hold);
	assert_true(hold_enter(&cpus[0].seat));
	hold_leave(&cpus[0].seat);
	hold_take(&hold);
	assert_int_equal(cpus[0].leave_at_once, 0);
	assert_false(cpus[0].signalled);
	hold_release(&hold);
}

static void *enter_once(void *ctx)
{
	struct cpu *cpu = ctx;
	bool entered = hold_enter(&cpu->seat);

	cpu->runs++;
	if (entered)
		hold_leave(&cpu->seat);
	return NULL;
}

/* The second holder's leave does not let anybody in while the first holds. */
static void holders_do_not_exclude_each_other(void **state)
{
	pthread_t thread;

	(void)state;
	hold_take(&hold);
	hold_take(&hold);
	hold_release(&hold);
	assert_int_equal(pthread_create(&thread, NULL, enter_once, &cpus[0]), 0);
	for (unsigned i = 0; i < 1000; i++) {
		sched_yield();
		assert_false(cpus[0].seat.inside && cpus[0].runs);
	}
	assert_int_equal(cpus[0].runs, 0);
	hold_release(&hold);
	pthread_join(thread, NULL);
	assert_int_equal(cpus[0].runs, 1);
}

/* Ended while others hold, at every moment: no holder and no vCPU waits for ever, and what was
 * stopped never enters again. */
static void a_machine_is_stopped_while_somebody_holds(void **state)
{
	unsigned rounds = 20;

	(void)state;
	for (unsigned i = 0; i < ROUNDS / 10; i++) {
		pthread_t holders[NR_HOLDERS];

		start_cpus();
		for (unsigned h = 0; h < NR_HOLDERS; h++)
			assert_int_equal(pthread_create(&holders[h], NULL, run_holder, &rounds), 0);
		for (unsigned n = 0; n < i % 16; n++)
			sched_yield();
		stop_cpus();
		for (unsigned c = 0; c < NR_CPUS; c++)
			assert_false(hold_enter(&cpus[c].seat));
		for (unsigned h = 0; h < NR_HOLDERS; h++)
			pthread_join(holders[h], NULL);
		power_off(NULL);
		power_on(NULL);
	}
}

static void *hold_once(void *ctx)
{
	(void)ctx;
	hold_take(&hold);
	hold_release(&hold);
	return NULL;
}

/* What it does in its exit may take long, and it need not come back for the holder to go on. */
static void who_leaves_lets_the_holder_go_on(void **state)
{
	time_t end = time(NULL) + WAIT_S;
	pthread_t holder;

	(void)state;
	assert_true(hold_enter(&cpus[0].seat));
	assert_int_equal(pthread_create(&holder, NULL, hold_once, NULL), 0);
	/* It is about to wait, or waits. */
	while (!hold.held)
		assert_true(time(NULL) < end);
	for (unsigned i = 0; i < 100; i++)
		sched_yield();
	hold_leave(&cpus[0].seat);
	pthread_join(holder, NULL);
	assert_int_equal(hold.held, 0);
}

/* A kick that is long past must not keep a vCPU out of the guest. */
static void an_old_kick_is_forgotten(void **state)
{
	(void)state;
	cpus[0].leave_at_once = 1;
	assert_true(hold_enter(&cpus[0].seat));
	assert_int_equal(cpus[0].leave_at_once, 0);
	hold_stop(&cpus[0].seat);
	assert_int_equal(cpus[0].leave_at_once, 1);
	assert_true(cpus[0].signalled);
	hold_leave(&cpus[0].seat);
	assert_false(hold_enter(&cpus[0].seat));
	assert_false(hold_enter(&cpus[0].seat));
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, power_on, power_off)
	const struct CMUnitTest tests[] = {
		CASE(nobody_is_in_the_guest_while_somebody_holds),
		CASE(vcpus_go_on_afterwards),
		CASE(a_vcpu_that_is_out_counts_as_held),
		CASE(holders_do_not_exclude_each_other),
		CASE(a_machine_is_stopped_while_somebody_holds),
		CASE(an_old_kick_is_forgotten),
		CASE(who_leaves_lets_the_holder_go_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
