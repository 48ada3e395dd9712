/*
 * Dirties memory and verifies it. The pages of the area are written one after the other, round
 * and round; in every round after the first each page is compared, before it is written again,
 * with what the round before left in it. A page that a migration lost or mixed up is seen.
 */
#include "guest.h"

enum {
    MIB = 1 << 20,
    AREA_START = 2 * MIB, /* the linker script keeps the image below */
    PAGE_BYTES = 4096,
    PAGES_PER_MIB = MIB / PAGE_BYTES,
    WORDS_PER_PAGE = PAGE_BYTES / 4,
    STAMP_STRIDE_WORDS = 16, /* one stamp in each 64-byte line */

    /* Work that became due while the guest could not run is dropped beyond this time. */
    BACKLOG_MS_MAX = 100,
    /* Pages in one call without a rate, so that commands are still read in between. */
    PAGES_PER_STEP = 256,

    RAM = 1,
};

#define START_INFO_MAGIC 0x336ec578u

/* From the PVH boot protocol. The upper halves of addresses are zero in a small machine. */
struct __attribute__((packed)) start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
};

struct __attribute__((packed)) memory_map_entry {
    uint64_t address, size;
    uint32_t type, reserved;
};

static uint32_t available_mib;
static struct memory_status status;
static uint32_t page;          /* the next one to write */
static uint32_t round;         /* complete rounds since the last configuration */
static uint32_t pages_due_milli; /* thousandths of a page */

void memory_start(const void *info_address) {
    const struct start_info *info = info_address;
    if (info->magic != START_INFO_MAGIC || info->version < 1)
        return;
    const struct memory_map_entry *entry = (const void *)(uint32_t)info->memory_map;
    for (uint32_t i = 0; i < info->memory_map_entries; i++, entry++) {
        uint64_t end = entry->address + entry->size;
        if (entry->type == RAM && entry->address <= AREA_START && end > AREA_START)
            available_mib = (uint32_t)((end - AREA_START) >> 20);
    }
}

void memory_configure(uint32_t size_mib, uint32_t rate_mib_s) {
    if (size_mib > available_mib)
        size_mib = available_mib;
    if (size_mib != status.size_mib)
        page = round = 0;
    status.size_mib = size_mib;
    status.rate_mib_s = rate_mib_s;
    pages_due_milli = 0;
}

static uint32_t stamp(uint32_t of_round, uint32_t of_page, uint32_t word) {
    return (of_round * 0x9e3779b1u) ^ (of_page * 0x85ebca6bu) ^ word;
}

static bool page_holds(const volatile uint32_t *words, uint32_t of_round) {
    for (uint32_t word = 0; word < WORDS_PER_PAGE; word += STAMP_STRIDE_WORDS)
        if (words[word] != stamp(of_round, page, word))
            return false;
    return true;
}

static void next_page(void) {
    volatile uint32_t *words = (volatile uint32_t *)(AREA_START + page * PAGE_BYTES);
    if (round > 0) {
        status.pages_checked++;
        if (!page_holds(words, round - 1))
            status.pages_bad++;
    }
    for (uint32_t word = 0; word < WORDS_PER_PAGE; word += STAMP_STRIDE_WORDS)
        words[word] = stamp(round, page, word);
    if (++page == status.size_mib * PAGES_PER_MIB) {
        page = 0;
        round++;
    }
}

void memory_work(uint32_t elapsed_ms) {
    uint32_t pages;
    if (status.size_mib == 0)
        return;
    if (memory_never_idle()) {
        pages = PAGES_PER_STEP;
    } else {
        if (elapsed_ms > BACKLOG_MS_MAX)
            elapsed_ms = BACKLOG_MS_MAX;
        pages_due_milli += elapsed_ms * status.rate_mib_s * PAGES_PER_MIB;
        pages = pages_due_milli / 1000;
        pages_due_milli %= 1000;
    }
    while (pages--)
        next_page();
}

bool memory_never_idle(void) { return status.size_mib > 0 && status.rate_mib_s == 0; }
struct memory_status memory_status(void) { return status; }
