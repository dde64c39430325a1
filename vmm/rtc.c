/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "iommu/base.h"

#define RTC_DR	 0x00  /* data: the time */
#define RTC_MR	 0x04  /* match */
#define RTC_LR	 0x08  /* load: set the time */
#define RTC_CR	 0x0c  /* control: bit 0, running, stays set */
#define RTC_IMSC 0x10  /* interrupt mask */
#define RTC_RIS	 0x14  /* raw interrupt status */
#define RTC_MIS	 0x18  /* masked interrupt status */
#define RTC_ICR	 0x1c  /* interrupt clear */
#define RTC_ID	 0xfe0 /* 8 identification registers of one byte */

/* Part 0x031, designer 0x41 (ARM), revision 0, then the PrimeCell signature 0xb105f00d. */
static const uint8_t rtc_id[8] = {0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};

struct rtc {
	pthread_mutex_t lock;
	uint32_t offset; /* guest's time minus the host's, seconds modulo 2^32 */
	uint32_t match, load, mask;
};

int rtc_create(struct rtc **out)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return -ENOMEM;
	pthread_mutex_init(&rtc->lock, NULL);
	*out = rtc;
	return 0;
}

void rtc_destroy(struct rtc *rtc)
{
	if (!rtc)
		return;
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

static uint32_t reg_read(const struct rtc *rtc, uint64_t reg)
{
	switch (reg) {
	case RTC_DR:
		return (uint32_t)time(NULL) + rtc->offset;
	case RTC_MR:
		return rtc->match;
	case RTC_LR:
		return rtc->load;
	case RTC_CR:
		return 1;
	case RTC_IMSC:
		return rtc->mask;
	default:
		return reg >= RTC_ID ? rtc_id[(reg - RTC_ID) / 4] : 0;
	}
}

static void reg_write(struct rtc *rtc, uint64_t reg, uint32_t val)
{
	switch (reg) {
	case RTC_MR:
		rtc->match = val;
		break;
	case RTC_LR:
		rtc->load = val;
		rtc->offset = val - (uint32_t)time(NULL);
		break;
	case RTC_IMSC:
		rtc->mask = val & 1;
		break;
	}
}

void rtc_access(void *ctx, uint64_t off, void *data, unsigned len, bool write)
{
	struct rtc *rtc = ctx;
	uint8_t bytes[8] = {0};

	pthread_mutex_lock(&rtc->lock);
	if (!write) {
		if (off % 4 == 0 && off < 0x1000)
			put_le32(bytes, reg_read(rtc, off));
		memcpy(data, bytes, len);
	} else if (len == 4 && off % 4 == 0) {
		reg_write(rtc, off, get_le32(data));
	}
	pthread_mutex_unlock(&rtc->lock);
}
