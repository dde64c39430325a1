/* SPDX-License-Identifier: Apache-2.0 */
/*
 * release - bounce pages are unmapped lazily, parked, flushed in batches and lent again while devices that
 * hold stale translations go on.
 *
 * A page is
 *	FREE	    nobody's; the next MAP may get it, or the kernel
 *	LENT	    mapped at its iova, with a guest's data
 *	PARKED	    mapped at its iova, scrubbed, bound to nothing: the next MAP there takes it as it is
 *	QUARANTINED its PTE is cleared, but a stale translation of its iova may reach it
 *	LOST	    as quarantined, and a flush did not confirm: never lent again
 *
 * A flush starts on every instance and waits for every instance; requests may come in between, and
 * what they quarantine is not of that batch. A quarantined page may be revived at its own iova: a stale
 * translation there is the right one. Another page goes there only after a flush.
 *
 * A guest's own page is unmapped strictly: UNMAP returns after a flush.
 *
 * Each device stands behind an instance of its own with a TLB of its own; both walk one table. It
 * accesses any iova at any moment, mapped or not. An access that was translated lands later; an
 * invalidation ends when all have landed. The mediator does any requests in any order, for ever.
 *
 * Runs: see class_change.pml.
 *
 * run: holds  lazy			-
 * run: holds  parked			-			-DPARK
 * run: holds  parked-that-may-fail	-			-DPARK -DMAY_FAIL
 * run: holds  remembered-invalid	-			-DPARK -DNEGATIVE
 * run: broken reuse-before-flush	reused_while_reachable|free_page_reached -DNO_QUARANTINE
 * run: broken one-instance-flushed	reused_while_reachable|free_page_reached -DONE_INSTANCE
 * run: broken started-not-waited	reused_while_reachable|free_page_reached -DNO_WAIT
 * run: broken newcomers-in-the-batch	reused_while_reachable|free_page_reached -DNEWCOMERS
 * run: broken revived-and-released	reused_while_reachable|free_page_reached|old_page_reached -DREVIVED_STAYS
 * run: broken mapped-over-a-stale-entry old_page_reached	-DNO_FLUSH_BEFORE_MAP
 * run: broken failure-ignored		reused_while_reachable|free_page_reached -DMAY_FAIL -DIGNORE_FAILURE
 * run: broken parked-not-scrubbed	parked_page_read	-DPARK -DNO_SCRUB
 * run: broken parked-given-away	reused_while_reachable|free_page_reached -DPARK -DGIVE_PARKED
 * run: broken guest-memory-lazily	guest_reached|old_page_reached -DLAZY_GUEST
 * run: broken map-without-invalidation	mapped_but_fault	-DPARK -DNEGATIVE -DNO_MAP_INVALIDATION
 */

/* Names for claims; always false, not part of any state. */
hidden byte reused_while_reachable, free_page_reached, old_page_reached, parked_page_read;
hidden byte guest_reached, mapped_but_fault;

#define NI 2 /* instances */
#define NV 2 /* iovas */
#define NP 2 /* bounce pages: 1 .. NP */
#define GUEST (NP + 1) /* the guest's own page */

/* What a TLB holds besides pages. */
#define EMPTY	0
#define INVALID (GUEST + 1) /* remembered: not mapped */

mtype = { FREE, LENT, PARKED, QUARANTINED, LOST };

mtype state[NP + 1] = FREE; /* [0] is unused */
byte iova[NP + 1]; /* where it is or was mapped */
bool secret[NP + 1]; /* holds a guest's data */
bool batch[NP + 1]; /* of the flush under way */
byte pte[NV]; /* 0: not mapped */
bool mapped[NV]; /* MAP has returned, UNMAP has not begun */
byte guest_maps; /* mappings of the guest's page that are not wholly gone */
byte tlb[NI * NV];
byte flight[NI]; /* page that an access is on its way to */
bool failed[NI]; /* an invalidation failed: its streams are blocked as far as they let themselves */
bool flushing;
bool asked[NI], denied[NI]; /* an invalidation was started; it ended, but was not confirmed */
byte k;

#define entry tlb[i * NV + v]

/* ---- devices ---- */

proctype device(byte i)
{
	byte v;

	do
	:: atomic {
			if
			:: v = 0
			:: v = 1
			fi;
			/* An entry may have gone by now. */
			if
			:: entry != EMPTY
#ifdef NEGATIVE
			:: entry = (pte[v] == 0 -> INVALID : pte[v])
#else
			:: entry = pte[v]
#endif
			fi;
			if
			:: entry == EMPTY || entry == INVALID ->
				/* A fault. Only where nothing is mapped. */
				assert(!mapped[v] || failed[i] || mapped_but_fault)
			:: else ->
				assert(!mapped[v] || failed[i] || entry == pte[v] || old_page_reached);
				flight[i] = entry
			fi
		};
		d_step {
			if
			:: flight[i] == GUEST ->
				assert(guest_maps || failed[i] || guest_reached)
			:: flight[i] != GUEST && flight[i] != 0 ->
				assert(state[flight[i]] != FREE || free_page_reached);
				assert(state[flight[i]] != LENT || iova[flight[i]] == v ||
				       reused_while_reachable);
				assert(state[flight[i]] != PARKED || !secret[flight[i]] || parked_page_read)
			:: else
			fi;
			flight[i] = 0;
			v = 0
		}
	/* The invalidation: at any moment after it was asked for, and what is in flight has landed. */
	:: atomic {
			asked[i] ->
#ifdef MAY_FAIL
			/* The two are alike: it is enough that one can fail, the one waited for first. */
			if
			:: i == 0 -> denied[i] = true
			:: tlb[i * NV] = EMPTY; tlb[i * NV + 1] = EMPTY
			fi;
#else
			tlb[i * NV] = EMPTY;
			tlb[i * NV + 1] = EMPTY;
#endif
			asked[i] = false
		}
	od
}

/* ---- flush ---- */

inline flush_start()
{
	d_step {
		for (k : 1 .. NP) {
			batch[k] = (state[k] == QUARANTINED)
		}
		k = 0;
		asked[0] = true;
#ifndef ONE_INSTANCE
		asked[1] = true;
#endif
		flushing = true
	}
}

inline wait_one(inst)
{
	atomic {
		!asked[inst];
		failed[inst] = failed[inst] || denied[inst];
		ok = ok && !denied[inst];
		denied[inst] = false
	}
}

inline flush_wait()
{
	ok = true;
#ifndef NO_WAIT
	wait_one(0);
	wait_one(1);
#endif
#ifdef IGNORE_FAILURE
	ok = true;
#endif
	d_step {
		for (k : 1 .. NP) {
			if
#ifdef NEWCOMERS
			:: state[k] == QUARANTINED ->
#else
			:: batch[k] ->
#endif
				state[k] = (ok -> FREE : LOST);
				secret[k] = false
			:: else
			fi;
			batch[k] = false
		}
		k = 0;
		ok = false;
		flushing = false
	}
}

/* What must be over before this request can go on: one that is under way does not cover it. */
inline flush()
{
	if
	:: flushing -> flush_wait()
	:: else
	fi;
	flush_start();
	flush_wait()
}

/* ---- requests ---- */

/* It may be remembered that nothing was mapped here. */
inline make_known()
{
#if defined(NEGATIVE) && !defined(NO_MAP_INVALIDATION)
	flush()
#else
	skip
#endif
}

inline map(v)
{
	p = 0;
	d_step {
		for (k : 1 .. NP) {
			if
			:: (state[k] == PARKED || state[k] == QUARANTINED) && iova[k] == v -> p = k
			:: else
			fi
		}
		k = 0
	};
	if
	:: p && state[p] == PARKED ->
		/* Filled first. Mapped it is already. */
		d_step { secret[p] = true; state[p] = LENT };
		mapped[v] = true
	:: p && state[p] == QUARANTINED ->
		d_step {
			secret[p] = true;
			state[p] = LENT;
#ifndef REVIVED_STAYS
			batch[p] = false
#endif
		};
		pte[v] = p;
		make_known();
		mapped[v] = true
	/* Another page, or the guest's own. */
	:: !p || state[p] == QUARANTINED ->
#ifndef NO_FLUSH_BEFORE_MAP
		if
		:: p -> flush()
		:: else
		fi;
#endif
		p = 0;
		d_step {
			for (k : 1 .. NP) {
				p = (state[k] == FREE -> k : p)
			}
			k = 0
		};
		if
		:: p ->
			d_step { iova[p] = v; secret[p] = true; state[p] = LENT };
			pte[v] = p;
			make_known();
			mapped[v] = true
		:: v == 1 ->
			guest_maps++;
			pte[v] = GUEST;
			make_known();
			mapped[v] = true
		/* Out of memory. */
		:: !p
		fi
	fi;
	p = 0
}

inline unmap(v)
{
	d_step { p = pte[v]; mapped[v] = false };
	if
	:: p == GUEST ->
		pte[v] = 0;
#ifndef LAZY_GUEST
		flush();
#endif
		guest_maps--
	/* Copied out; nothing of it remains readable, then it may wait for the next MAP. */
#ifdef PARK
	:: p != GUEST ->
#ifdef NO_SCRUB
		state[p] = PARKED
#else
		d_step { secret[p] = false; state[p] = PARKED }
#endif
#endif
	:: p != GUEST ->
		pte[v] = 0;
#ifdef NO_QUARANTINE
		state[p] = FREE
#else
		state[p] = QUARANTINED
#endif
	fi;
	p = 0
}

/* The room of a parked page is wanted. */
inline unpark(page)
{
#ifdef GIVE_PARKED
	d_step { pte[iova[page]] = 0; state[page] = FREE }
#else
	pte[iova[page]] = 0;
	state[page] = QUARANTINED
#endif
}

proctype mediator()
{
	byte p;
	bool ok;

end:	do
	:: !mapped[0] -> map(0)
	:: !mapped[1] -> map(1)
	:: mapped[0] -> unmap(0)
	:: mapped[1] -> unmap(1)
#ifdef PARK
	:: state[1] == PARKED -> unpark(1)
	:: state[2] == PARKED -> unpark(2)
#endif
	:: !flushing -> flush_start()
	:: flushing -> flush_wait()
	od
}

init {
	atomic {
		run device(0);
		run device(1);
		run mediator()
	}
}
