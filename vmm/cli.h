/* SPDX-License-Identifier: Apache-2.0 */
/* cli - arguments -> struct vm_config; the only place that prints usage. */
#ifndef VMM_CLI_H
#define VMM_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "iommu/mediator.h"
#include "vmm/sim_dart.h"

/* Exit statuses of `granule run`, documented in granule(1). */
enum exit_status {
	EXIT_POWEROFF = 0, /* the guest powered off, or the user quit with Ctrl-A x */
	EXIT_FAILED = 1,   /* could not start, or had to give up; a line on stderr says why */
	EXIT_USAGE = 2,	   /* bad arguments */
	EXIT_RESET = 3,	   /* the guest asked for a reset (reboot) */
	EXIT_CRASH = 4,	   /* the guest crashed: PSCI SYSTEM_CRASH or an exit KVM cannot explain */
	EXIT_SANDBOX = 5,  /* a thread made a system call that it may not: vmm/sandbox.h */
			   /* 128 + n: ended by signal n */
};

/* Linux arch/arm64/include/uapi/asm/setup.h: COMMAND_LINE_SIZE, with the NUL. */
#define CMDLINE_MAX 2048

#define CONFIG_MAX_DISKS 8
#define CONFIG_MAX_VFIO	 8
#define CONFIG_MAX_SIM	 4
#define CONFIG_MAX_NETS	 4

/* kernel, initrd, KVM; a descriptor for each disk and network, two for each device */
#define CONFIG_MAX_FDS                                                                             \
	(3 + CONFIG_MAX_DISKS + CONFIG_MAX_SIM + CONFIG_MAX_NETS + 2 * CONFIG_MAX_VFIO)

#define CONFIG_TAP_NAME_MAX 15 /* letters; Linux's IFNAMSIZ counts the NUL */

struct disk_config {
	const char *path;
	bool readonly;
};

struct vfio_config {
	const char *device; /* as given: BDF or sysfs path */
	int group_fd;	    /* of its group; 0: none is given */
	int container_fd;   /* of /dev/vfio/vfio; 0: as above */
	bool sync_set;	    /* sync= was given */
	enum sync_mode sync;
	bool poll_set;	  /* poll= was given */
	unsigned poll_us; /* microseconds; 0: none */
	bool hold_set;	  /* hold= was given */
	bool hold;
	bool relaxed;	   /* exposure=relaxed */
	const char *group; /* group=NAME; NULL: none */
};

struct net_config {
	const char *tap; /* 1 to CONFIG_TAP_NAME_MAX letters, or fd=N */
	int fd;		 /* that N; 0: a name */
	bool mac_set;	 /* mac= was given */
	uint8_t mac[6];
};

enum sim_kind {
	SIM_NVME,
	SIM_EDU,
};

/* A simulated device behind simulated DARTs of its own. */
struct sim_config {
	enum sim_kind kind;
	struct disk_config disk; /* SIM_NVME */
	bool hostile;		 /* SIM_EDU */
	enum sim_dart_kind dart;
	enum sim_dart_quirk quirk;
	unsigned darts;	  /* 1 or 2 */
	bool guest_owned; /* owner=guest: the guest's own driver has the DART's registers */
	bool sync_set;	  /* sync= was given */
	enum sync_mode sync;
	bool poll_set;	  /* poll= was given */
	unsigned poll_us; /* microseconds; 0: none */
	bool hold_set;	  /* hold= was given */
	bool hold;
	bool relaxed_set; /* exposure= was given */
	bool relaxed;	  /* exposure=relaxed */
};

struct vm_config {
	const char *kernel, *initrd, *cmdline; /* cmdline never NULL */
	const char *kvm;		       /* /dev/kvm; never NULL */
	uint64_t memory;		       /* bytes, multiple of 2 MiB, fits the layout */
	unsigned vcpus;			       /* 1 .. LAYOUT_MAX_VCPUS */
	unsigned nr_disks, nr_vfio, nr_sim, nr_nets;
	struct disk_config disks[CONFIG_MAX_DISKS];
	struct vfio_config vfio[CONFIG_MAX_VFIO];
	struct sim_config sim[CONFIG_MAX_SIM];
	struct net_config nets[CONFIG_MAX_NETS];
	bool iommu;		      /* --iommu on */
	const char *dump_dtb, *stats; /* files, or NULL */
	bool live_stats;	      /* a socket for `granule stat` */
	const char *trace;	      /* a file, or NULL */
	uint64_t trace_max;	      /* bytes of it */
	bool verbose;
	bool sandbox;		 /* unless --no-sandbox */
	int fds[CONFIG_MAX_FDS]; /* all that were given with fd=N: open, each another file */
	unsigned nr_fds;
};

struct stat_config {
	pid_t pid;
	bool json;
	unsigned count;	   /* how often to ask; 0: for ever */
	unsigned interval; /* seconds between */
};

struct inspect_config {
	const char *kernel; /* NULL: a VM that runs */
	pid_t pid;
	bool one; /* only the domain with the number .domain */
	uint32_t domain;
	bool json, svg;
	const char *file; /* of the SVG; NULL: standard output */
};

enum cli_command {
	CLI_DONE, /* nothing is left to do: help was printed, or an error */
	CLI_RUN,
	CLI_CHECK,
	CLI_DEVICES,
	CLI_INSPECT,
	CLI_STAT,
};

struct cli_request {
	enum cli_command command;
	int status;		       /* CLI_DONE: what to exit with */
	struct vm_config vm;	       /* CLI_RUN */
	bool json;		       /* CLI_DEVICES */
	struct inspect_config inspect; /* CLI_INSPECT */
	struct stat_config stat;       /* CLI_STAT */
};

/**
 * cli_parse - all arguments of the program
 * @argv: may be written to; what @out names lives in it
 */
void cli_parse(int argc, char **argv, struct cli_request *out);

/**
 * cli_parse_run - parse the arguments of `run`; argv[0] is "run" itself
 * Return: 0; -EINVAL after one line on stderr; 1 if help was asked for and printed.
 */
int cli_parse_run(int argc, char **argv, struct vm_config *out);

/* Subcommands, each in its own file; all return an exit status. */
int vm_run(const struct vm_config *cfg);	   /* vm.c */
int check_run(void);				   /* check.c */
int devices_run(bool json);			   /* devices.c */
int inspect_run(const struct inspect_config *cfg); /* inspect.c */
int stat_run(const struct stat_config *cfg);	   /* stat.c */

#endif
