/* What the parts of the guest offer each other. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stdint.h>

/* hardware.c: the few devices the guest uses */

/* Programs the interrupt controller, the wake-up tick and the serial port; starts the clock. */
void hardware_start(void);
/* Reads the clock. What the other clock functions say is as of the last call of this one. */
void clock_update(void);
/* Time since boot, in milliseconds. Wraps after 49 days. */
uint32_t clock_ms(void);
/* Clock ticks between the last two calls of clock_update. */
uint32_t clock_delta_ticks(void);
/* Waits for the next wake-up tick, 10 ms at most. */
void cpu_idle(void);
void serial_put(char c);
/* The next character that has arrived, or -1. */
int serial_get(void);
void power_off(void);

#define CLOCK_TICKS_PER_S 3579545u

/* text.c: numbers and lines */

void print(const char *text);
void print_number(uint32_t value);
/* Skips `prefix` at `*text` if it is there. */
bool skip_prefix(const char **text, const char *prefix);
/* Reads digits at `*text`; false if there is none or the value exceeds `max`. */
bool read_number(const char **text, uint32_t max, uint32_t *value);
/* Between these two, everything printed is framed as `$...*CRC`. */
void frame_begin(void);
void frame_end(void);

/* memory.c: dirtying memory and verifying it */

/* Finds the memory to work on in the PVH start info. */
void memory_start(const void *start_info);
/* Works on `size_mib` MiB, cut to what there is, at `rate_mib_s` (0: as fast as possible). */
void memory_configure(uint32_t size_mib, uint32_t rate_mib_s);
/* Does the part of the work that has become due after `elapsed_ms`. */
void memory_work(uint32_t elapsed_ms);
/* Whether there is always work, because no rate is set. */
bool memory_never_idle(void);

struct memory_status {
    uint32_t size_mib;
    uint32_t rate_mib_s;
    uint32_t pages_checked;
    uint32_t pages_bad;
};
struct memory_status memory_status(void);

#endif
