/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rtc - a PL031 real-time clock: seconds since 1970 in UTC, as the host tells them. The guest may
 * set it (for itself); the match register is kept but raises no interrupt. Source: ARM PrimeCell
 * Real Time Clock (PL031) manual, DDI 0224; identification registers included, because Linux's AMBA
 * bus finds its driver by them.
 */
#ifndef VMM_RTC_H
#define VMM_RTC_H

#include <stdbool.h>
#include <stdint.h>

struct rtc;

int rtc_create(struct rtc **out);  /* Return: 0; -ENOMEM. */
void rtc_destroy(struct rtc *rtc); /* NULL is fine */

/* rtc_access - one guest access (a bus_access_fn); registers are 32 bits, narrower reads see the
 * low bytes, other writes than of 4 aligned bytes do nothing */
void rtc_access(void *rtc, uint64_t off, void *data, unsigned len, bool write);

#endif
