/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sandbox - what is left to a thread once the guest may run: no capability, no path but those that
 * were named, and the system calls of its kind. Any other call ends the process with one line and
 * EXIT_SANDBOX; the kernel then closes its descriptors, which resets passed-through devices.
 *
 * Each thread enters by itself and for good. Without sandbox_prepare() (--no-sandbox, unit tests)
 * entering does nothing.
 */
#ifndef VMM_SANDBOX_H
#define VMM_SANDBOX_H

#include <stdbool.h>
#include <stdint.h>

enum sandbox_thread {
	SANDBOX_LOOP, /* the main thread, with the event loop */
	SANDBOX_VCPU,
	SANDBOX_NVME,  /* a simulated NVMe controller's */
	SANDBOX_EDU,   /* a simulated test device's */
	SANDBOX_TRACE, /* the writer of --trace */
	NR_SANDBOX_THREADS,
};

struct sandbox_cfg {
	/* The machine's ioctls for each kind, ended by 0; NULL: none. */
	const uint32_t *ioctls[NR_SANDBOX_THREADS];
	bool pins; /* devices reach memory, which the kernel must pin for them */
	/* The loop's thread may rename and remove files in the directories of these files, if the
	 * kernel has Landlock; anywhere, if it has not. NULL: none. */
	const char *files[2];
	bool socket; /* it answers `granule stat` */
};

/**
 * sandbox_prepare - build every filter; before the first thread is started
 * Return: 0; -errno after a line on stderr.
 */
int sandbox_prepare(const struct sandbox_cfg *cfg);

/* sandbox_enter - confine the calling thread. Should the kernel not have the memory for it, the
 * process ends with a line and EXIT_FAILED: nothing of it goes on unconfined. */
void sandbox_enter(enum sandbox_thread kind);

#endif
