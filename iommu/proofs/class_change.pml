/* SPDX-License-Identifier: Apache-2.0 */
/*
 * class_change - a live frame turns from direct to bounce and back while devices and a CPU write to it.
 *
 * The mediator holds its lock throughout and takes these steps; devices and CPU take theirs in between,
 * in every order there is:
 *
 *	direct -> bounce				bounce -> direct
 *	1 guest page -> bounce page -> twin		1 sync for CPU
 *	2 replace the PTE, table by table		2 replace the PTE, table by table
 *	3 invalidate everywhere, wait for all		3 invalidate everywhere, wait for all
 *	4 what differs from the twin in the guest	4 what differs from the twin in the bounce
 *	  page goes to the bounce page, unless it	  page goes to the guest, unless it differs
 *	  differs there too; the twin follows the	  there too
 *	  guest in both cases
 *
 * Step 4 is what a device wrote through a stale translation (and the CPU meanwhile). What differs on both
 * sides was written twice, the second time through the new translation: that value stays where it is.
 * Words are collected from the last to the first and applied from the first to the last.
 *
 * Each device stands behind a DART of its own with a table and a TLB of its own. A TLB entry may go at any moment;
 * a write that was translated lands later, and an invalidation ends only when what it translated has
 * landed. Each byte has one writer; what it writes is a count, so that newer is greater.
 *
 * run.sh reads this table: what must come out, name of the run, the claim that is violated (-: none), what
 * to define. "broken" is the protocol with a mistake in it, "limit" is a claim that cannot be made: the
 * reason is in docs/testing.md.
 *
 * run: holds  shared-word			-			-DSHARED
 * run: holds  shared-word-there-and-back	-			-DSHARED -DBACK
 * run: holds  order				-			-DORDER -DWRITES=3
 * run: holds  order-back-at-sync-points	-			-DORDER -DWRITES=3 -DBACK -DAT_SYNC_POINTS
 * run: holds  order-back-one-pass-collect	-			-DORDER -DWRITES=3 -DBACK -DAT_SYNC_POINTS -DONE_PASS
 * run: holds  whole-words			-			-DTORN -DWRITES=3
 * run: holds  whole-words-back			-			-DTORN -DWRITES=3 -DBACK
 * run: broken merge-before-invalidation-ends	write_lost		-DSHARED -DMERGE_EARLY
 * run: broken no-merge				write_lost		-DSHARED -DNO_MERGE
 * run: broken no-merge-back			write_lost		-DSHARED -DBACK -DNO_MERGE_BACK
 * run: broken twin-from-the-guest		write_lost|sync_missed	-DSHARED -DTWIN_APART
 * run: broken plain-store			write_lost|sync_missed	-DSHARED -DPLAIN_STORE
 * run: broken plain-store-back			write_lost		-DSHARED -DBACK -DPLAIN_STORE
 * run: broken older-wins			write_lost		-DSHARED -DOLDER_WINS
 * run: broken older-wins-back			write_lost		-DSHARED -DBACK -DOLDER_WINS
 * run: broken decided-before-the-swap		write_lost		-DSHARED -DSTALE_MASK
 * run: broken unmap-then-map			access_faulted		-DSHARED -DUNMAP_MAP
 * run: broken invalidate-before-replace	write_lost		-DSHARED -DINVALIDATE_FIRST
 * run: broken one-dart-not-invalidated		write_lost		-DSHARED -DONE_DART
 * run: broken newer-copied-at-once		flag_seen_early		-DORDER -DCOPY_NEWER
 * run: broken sync-in-one-pass			flag_seen_early		-DORDER -DONE_PASS
 * run: broken byte-by-byte			word_torn		-DTORN -DBYTES
 * run: limit  two-darts-one-byte		write_lost|sync_missed	-DSHARED -DCROSS
 * run: limit  value-of-before			write_lost		-DSHARED -DABA
 * run: limit  word-in-parts			word_torn		-DTORN -DABA
 * run: limit  own-write-read-back		read_back_old		-DSHARED -DREAD_BACK
 * run: limit  polled-while-turning-direct	flag_seen_early		-DORDER -DBACK
 */

/* Names for claims; always false, not part of any state. */
hidden byte write_lost, access_faulted, word_torn, flag_seen_early, read_back_old, sync_missed;

#define NONE   0
#define DIRECT 1
#define BOUNCE 2

#if defined(SHARED)
/* One word: a byte for each of two devices, and one for the CPU. */
#define NW 1
#define NB 3
#define ND 2
#define CPU_BYTE 2
#elif defined(ORDER)
/* A device writes an entry: first what it says, then the word with the valid flag. */
#define NW 2
#define NB 1
#define ND 1
#else
/* A device writes whole words. */
#define NW 1
#define NB 2
#define ND 1
#endif
#define N (NW * NB)

#ifndef WRITES
#define WRITES 2 /* by each writer */
#endif

typedef host_page {
	byte b[N]
}
host_page mem[3]; /* a PTE names one of them */
#define guest  mem[DIRECT].b
#define bounce mem[BOUNCE].b
byte twin[N];
byte last[N]; /* what the byte's writer wrote last */
byte pte[ND], tlb[ND], flight[ND];
byte rung; /* what the CPU had written at the last sync for device */
byte writers = ND; /* not yet done */

byte class = DIRECT;
bool busy; /* the mediator's lock is held for a change */
byte taken[N]; /* words as collected */
byte k;

/* ---- devices ---- */

/* Translate by the TLB, or after the entry has gone by the table. */
inline translate(dart)
{
	atomic {
		if
		:: tlb[dart] != NONE
		:: tlb[dart] = pte[dart]
		fi;
		assert(tlb[dart] != NONE || access_faulted);
		flight[dart] = tlb[dart]
	}
}

inline device_write(via, at, value)
{
	translate(via);
	d_step {
		mem[flight[via]].b[at] = value;
		last[at] = value;
		flight[via] = NONE
	}
}

#ifdef SHARED
proctype device(byte d)
{
	byte v, want, n;

	do
	:: n < WRITES ->
		n++;
#if defined(CROSS)
		/* One byte, through either DART. */
		atomic {
			if
			:: d == 0
			:: else -> break
			fi
		};
		if
		:: device_write(0, 0, n)
		:: device_write(1, 0, n)
		fi
#elif defined(ABA)
		device_write(d, d, n % 2)
#else
		device_write(d, d, n)
#endif
	/* What was written before the last doorbell is there. */
	:: atomic { d == 0 -> want = rung };
		translate(d);
		d_step {
			v = mem[flight[d]].b[CPU_BYTE];
			flight[d] = NONE;
			assert(v >= want || sync_missed);
			v = 0;
			want = 0
		}
#ifdef READ_BACK
	:: translate(d);
		d_step {
			v = mem[flight[d]].b[d];
			flight[d] = NONE;
			assert(v == last[d] || read_back_old);
			v = 0
		}
#endif
	:: n == WRITES -> break
	od;
	writers--
}

proctype cpu()
{
	byte n, seen;

	do
	:: n < WRITES ->
		d_step {
			n++;
			guest[CPU_BYTE] = n;
			last[CPU_BYTE] = n
		}
	/* Nobody undoes what the CPU wrote; what it sees of a device never goes back. */
	:: d_step {
			assert(guest[CPU_BYTE] == n || write_lost);
#ifndef ABA
			assert(guest[0] >= seen || write_lost);
			seen = guest[0]
#endif
		}
	:: n == WRITES -> break
	od;
	writers--
}
#endif

#ifdef ORDER
proctype device(byte d)
{
	byte n;

	do
	:: n < WRITES ->
		n++;
		device_write(d, 0, n);
		device_write(d, 1, n)
	:: else -> break
	od;
	writers--
}

proctype cpu()
{
	byte flag;

	do
	:: writers > 1 ->
#ifdef AT_SYNC_POINTS
		/* An interrupt waits for the lock. */
		atomic { !busy -> flag = guest[1]; assert(guest[0] >= flag || flag_seen_early); flag = 0 }
#else
		flag = guest[1];
		d_step { assert(guest[0] >= flag || flag_seen_early); flag = 0 }
#endif
	:: writers == 1 -> break
	od;
	writers--
}
#endif

#ifdef TORN
proctype device(byte d)
{
	byte n;

	do
	:: n < WRITES ->
		n++;
		translate(d);
		d_step {
#ifdef ABA
			last[0] = n;
			last[1] = n % 2;
#else
			last[0] = n;
			last[1] = n;
#endif
			mem[flight[d]].b[0] = last[0];
			mem[flight[d]].b[1] = last[1];
			flight[d] = NONE
		}
	:: else -> break
	od;
	writers--
}

proctype cpu()
{
	do
	:: writers > 1 ->
#ifdef ABA
		assert(guest[1] == guest[0] % 2 || word_torn)
#else
		assert(guest[1] == guest[0] || word_torn)
#endif
	:: writers == 1 -> break
	od;
	writers--
}
#endif

/* ---- what the mediator's copies are made of ---- */

#define each_byte(w) k : (w) * NB .. (w) * NB + NB - 1

/* A word is loaded whole. */
inline load(lw, src)
{
	d_step {
		for (each_byte(lw)) {
			taken[k] = mem[src].b[k]
		}
		k = 0
	}
}

/* From the last word to the first. */
inline collect(from)
{
#if NW == 2
	load(1, from);
#endif
	load(0, from)
}

/*
 * What was taken and differs from the twin -> @to, a compare-and-swap that is repeated until it succeeds: one
 * step. With @careful, only where @to has not changed as well.
 */
inline apply(aw, to, careful)
{
#ifdef BYTES
	for (each_byte(aw)) {
		if
		:: taken[k] != twin[k] -> mem[to].b[k] = taken[k]; twin[k] = taken[k]
		:: else
		fi
	}
	k = 0
#elif defined(PLAIN_STORE)
	d_step {
		for (each_byte(aw)) {
			word[k] = (taken[k] != twin[k] && !(careful && mem[to].b[k] != twin[k]) -> taken[k] : mem[to].b[k]);
			dirty = dirty || taken[k] != twin[k]
		}
		k = 0
	};
	d_step {
		for (each_byte(aw)) {
			if
			:: dirty -> mem[to].b[k] = word[k]; twin[k] = taken[k]
			:: else
			fi;
			word[k] = 0
		}
		k = 0;
		dirty = false
	}
#else
	d_step {
		for (each_byte(aw)) {
			if
			:: taken[k] != twin[k] ->
				if
#ifndef OLDER_WINS
				:: careful && mem[to].b[k] != twin[k]
#endif
				:: else -> mem[to].b[k] = taken[k]
				fi;
				twin[k] = taken[k]
			:: else
			fi;
			taken[k] = 0
		}
		k = 0
	}
#endif
}

inline sync_for_device()
{
	collect(DIRECT);
	apply(0, BOUNCE, false)
#if NW == 2
	; apply(1, BOUNCE, false)
#endif
}

inline sync_for_cpu()
{
#ifdef ONE_PASS
	load(0, BOUNCE);
	apply(0, DIRECT, false);
	load(1, BOUNCE);
	apply(1, DIRECT, false)
#else
	collect(BOUNCE);
	apply(0, DIRECT, false)
#if NW == 2
	; apply(1, DIRECT, false)
#endif
#endif
}

/* ---- the change ---- */

inline replace(rd, page)
{
#ifdef UNMAP_MAP
	pte[rd] = NONE;
	tlb[rd] = NONE;
#endif
	pte[rd] = page
}

/* That an entry goes before the end of the invalidation is one of the evictions that may happen anyway. */
inline wait_invalidated(dart, old)
{
	atomic { flight[dart] != old -> tlb[dart] = NONE }
}

inline replace_all(with)
{
	replace(0, with)
#if ND == 2
	; replace(1, with)
#endif
}

inline invalidate(stale)
{
	wait_invalidated(0, stale)
#if ND == 2 && !defined(ONE_DART)
	; wait_invalidated(1, stale)
#endif
}

inline load_both(bw)
{
	load(bw, DIRECT);
	d_step {
		for (each_byte(bw)) {
			late[k] = bounce[k]
		}
		k = 0
	}
}

/*
 * What differs on both sides stays in the bounce page: the next sync brings it, and in order. To copy it
 * to the guest at once may show a valid flag before what it covers, which may be among what only
 * differs in the bounce page.
 */
inline merge_word(w)
{
#ifdef COPY_NEWER
	d_step {
		for (each_byte(w)) {
			if
			:: taken[k] != twin[k] && late[k] != twin[k] ->
				guest[k] = late[k];
				twin[k] = late[k]
			:: taken[k] != twin[k] && late[k] == twin[k] ->
				/* The device may have written it since it was collected: that is newer. */
				bounce[k] = (bounce[k] == twin[k] -> taken[k] : bounce[k]);
				twin[k] = taken[k]
			:: else
			fi;
			taken[k] = 0;
			late[k] = 0
		}
		k = 0
	}
#elif defined(STALE_MASK)
	/* Which bytes go is decided before the loop of the compare-and-swap, and not again inside it. */
	d_step {
		for (each_byte(w)) {
			late[k] = (taken[k] != twin[k] && bounce[k] == twin[k] -> 1 : 0)
		}
		k = 0
	};
	d_step {
		for (each_byte(w)) {
			bounce[k] = (late[k] -> taken[k] : bounce[k]);
			twin[k] = taken[k];
			late[k] = 0
		}
		k = 0
	}
#else
	apply(w, BOUNCE, true)
#endif
}

inline merge()
{
#ifdef COPY_NEWER
	load_both(1);
	load_both(0);
	merge_word(0);
	merge_word(1)
#else
	collect(DIRECT);
	merge_word(0)
#if NW == 2
	; merge_word(1)
#endif
#endif
}

/* The copy itself is word by word too; nobody else knows the bounce page yet. */
inline fill(w)
{
	d_step {
		for (each_byte(w)) {
			bounce[k] = guest[k];
			twin[k] = guest[k]
		}
		k = 0
	}
#ifdef TWIN_APART
	;
	d_step {
		for (each_byte(w)) {
			twin[k] = guest[k]
		}
		k = 0
	}
#endif
}

inline to_bounce()
{
	busy = true;
	fill(0);
#if NW == 2
	fill(1);
#endif
#ifdef INVALIDATE_FIRST
	invalidate(NONE);
	replace_all(BOUNCE);
#else
	replace_all(BOUNCE);
#ifdef MERGE_EARLY
	merge();
#endif
	invalidate(DIRECT);
#endif
#if !defined(NO_MERGE) && !defined(MERGE_EARLY)
	merge();
#endif
	class = BOUNCE;
	busy = false
}

inline to_direct()
{
	busy = true;
	sync_for_cpu();
	replace_all(DIRECT);
	invalidate(BOUNCE);
#ifndef NO_MERGE_BACK
	collect(BOUNCE);
	apply(0, DIRECT, true);
#if NW == 2
	apply(1, DIRECT, true);
#endif
#endif
	class = DIRECT;
	/* Nothing of the page is looked at again. */
	d_step {
		for (k : 0 .. N - 1) {
			bounce[k] = 0;
			twin[k] = 0
		}
		k = 0
	}
	busy = false
}

/* Everything that device @i wrote until now is in the guest afterwards. */
inline interrupt()
{
	d_step { was = last[0] };
	if
	:: class == BOUNCE -> sync_for_cpu()
	:: else
	fi;
#ifndef ABA
	d_step { assert(guest[0] >= was || sync_missed); was = 0 }
#endif
}

inline doorbell()
{
#ifdef SHARED
	d_step { was = last[CPU_BYTE] };
	if
	:: class == BOUNCE -> sync_for_device()
	:: else
	fi;
	d_step { rung = was; was = 0 }
#else
	skip
#endif
}

inline run_others()
{
	atomic {
		writers = ND + 1;
#if ND == 2
		run device(1);
#endif
		run device(0);
		run cpu()
	}
}

proctype mediator()
{
	byte was;
#ifdef PLAIN_STORE
	byte word[N];
	bool dirty;
#endif
#if defined(COPY_NEWER) || defined(STALE_MASK)
	byte late[N];
#endif

#ifndef BACK
	/* Sync points before the change do nothing: it is what they will be a copy of. */
	doorbell();
	to_bounce();
#else
	/* It has been bounce for long. */
	d_step {
		class = BOUNCE;
		for (k : 0 .. ND - 1) {
			pte[k] = BOUNCE
		}
		k = 0
	};
	run_others();
	if
	:: doorbell()
	:: skip
	fi;
	to_direct();
#ifdef SHARED
	/* And there again. */
	if
	:: to_bounce()
	:: skip
	fi;
#endif
#endif
	do
	:: writers > 0 ->
		if
		:: interrupt()
		:: doorbell()
		fi
	:: writers == 0 -> break
	od;
	doorbell();
	interrupt();
	/* Nobody writes any more: all that was written is there, and both sides see the same. */
	d_step {
		for (k : 0 .. N - 1) {
#ifdef TORN
			assert(guest[k] == last[k] || word_torn);
#else
			assert(guest[k] == last[k] || write_lost);
#endif
			assert(class == DIRECT || bounce[k] == last[k] || write_lost)
		}
		k = 0
	}
}

init {
	d_step {
		for (k : 0 .. ND - 1) {
			pte[k] = DIRECT
		}
		k = 0
	};
#ifndef BACK
	run_others();
#endif
	run mediator()
}
