/*
 * The devices of QEMU's `pc` machine that the guest uses: the ACPI timer as its clock, the PIT as
 * an alarm that ends its sleep, the first serial port as its console.
 *
 * The PIT does not tell the time: its interrupts are lost while the host starves the guest. The
 * ACPI timer counts on, and continues where it was after a migration.
 */
#include "guest.h"

enum {
    PIC1_COMMAND = 0x20,
    PIC1_DATA = 0x21,
    PIC2_COMMAND = 0xa0,
    PIC2_DATA = 0xa1,
    PIC_INIT = 0x11,
    PIC_MODE_8086 = 0x01,
    PIC_END_OF_INTERRUPT = 0x20,

    PIT_CHANNEL_0 = 0x40,
    PIT_COMMAND = 0x43,
    PIT_RATE_GENERATOR = 0x34,
    PIT_INPUT_HZ = 1193182,
    WAKE_UP_HZ = 100,

    COM1_DATA = 0x3f8,
    COM1_INTERRUPT_ENABLE = 0x3f9,
    COM1_FIFO_CONTROL = 0x3fa,
    COM1_LINE_CONTROL = 0x3fb,
    COM1_MODEM_CONTROL = 0x3fc,
    COM1_LINE_STATUS = 0x3fd,
    LINE_8N1 = 0x03,
    LINE_DIVISOR_LATCH = 0x80,
    FIFO_ENABLE_AND_CLEAR = 0x07,
    MODEM_DTR_RTS = 0x03,
    STATUS_DATA_READY = 0x01,
    STATUS_CAN_SEND = 0x20,

    /* Where SeaBIOS puts the power management registers of the PIIX4. */
    ACPI_PM_CONTROL = 0x604,
    ACPI_PM_TIMER = 0x608,
    ACPI_PM_TIMER_MASK = 0xffffff,
    ACPI_SLEEP_S5 = 0x2000,

    VECTOR_FIRST_IRQ = 32,
    VECTORS = 48,
    CODE_SELECTOR = 0x08,
    GATE_INTERRUPT_32 = 0x8e,
};

/* 2^32 * 1000 / CLOCK_TICKS_PER_S: turns ticks into milliseconds without a division. */
#define MS_PER_TICK_FIXED 1199864u

static uint32_t timer_last;
static uint32_t delta_ticks;
static uint64_t ms_fixed; /* milliseconds, with 32 bits of fraction */

static inline void outb(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void outw(uint16_t port, uint16_t value) {
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint32_t inl(uint16_t port) {
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* Interrupts ---------------------------------------------------------------------------------- */

struct interrupt_frame;

struct __attribute__((packed)) gate {
    uint16_t offset_low, selector;
    uint8_t reserved, type;
    uint16_t offset_high;
};

struct __attribute__((packed)) table_pointer {
    uint16_t limit;
    uint32_t base;
};

static struct gate interrupt_table[VECTORS];

/* All a tick has to do is to end cpu_idle. */
__attribute__((interrupt)) static void on_tick(struct interrupt_frame *frame) {
    (void)frame;
    outb(PIC1_COMMAND, PIC_END_OF_INTERRUPT);
}

/* Every other line is masked, so that this can only be a spurious interrupt: nothing to end. */
__attribute__((interrupt)) static void on_spurious(struct interrupt_frame *frame) { (void)frame; }

__attribute__((interrupt)) static void on_exception(struct interrupt_frame *frame) {
    (void)frame;
    print("\n?fault: processor exception, halted\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void set_gate(int vector, void (*handler)(struct interrupt_frame *)) {
    uint32_t address = (uint32_t)handler;
    interrupt_table[vector] = (struct gate){
        .offset_low = (uint16_t)address,
        .selector = CODE_SELECTOR,
        .type = GATE_INTERRUPT_32,
        .offset_high = (uint16_t)(address >> 16),
    };
}

static void interrupts_start(void) {
    for (int vector = 0; vector < VECTORS; vector++)
        set_gate(vector, vector < VECTOR_FIRST_IRQ ? on_exception : on_spurious);
    set_gate(VECTOR_FIRST_IRQ, on_tick);
    struct table_pointer pointer = {sizeof interrupt_table - 1, (uint32_t)interrupt_table};
    __asm__ volatile("lidt %0" ::"m"(pointer));

    outb(PIC1_COMMAND, PIC_INIT);
    outb(PIC2_COMMAND, PIC_INIT);
    outb(PIC1_DATA, VECTOR_FIRST_IRQ);
    outb(PIC2_DATA, VECTOR_FIRST_IRQ + 8);
    outb(PIC1_DATA, 1 << 2); /* the second controller is on line 2 */
    outb(PIC2_DATA, 2);
    outb(PIC1_DATA, PIC_MODE_8086);
    outb(PIC2_DATA, PIC_MODE_8086);
    outb(PIC1_DATA, (uint8_t)~1); /* let only line 0, the PIT, through */
    outb(PIC2_DATA, 0xff);
}

static void tick_start(void) {
    uint32_t divisor = PIT_INPUT_HZ / WAKE_UP_HZ;
    outb(PIT_COMMAND, PIT_RATE_GENERATOR);
    outb(PIT_CHANNEL_0, (uint8_t)divisor);
    outb(PIT_CHANNEL_0, (uint8_t)(divisor >> 8));
    __asm__ volatile("sti");
}

void cpu_idle(void) { __asm__ volatile("hlt"); }

/* Clock --------------------------------------------------------------------------------------- */

static uint32_t timer_read(void) { return inl(ACPI_PM_TIMER) & ACPI_PM_TIMER_MASK; }

/* The timer wraps after 4.7 s: a guest that is kept from running for longer loses whole rounds. */
void clock_update(void) {
    uint32_t now = timer_read();
    delta_ticks = (now - timer_last) & ACPI_PM_TIMER_MASK;
    timer_last = now;
    ms_fixed += (uint64_t)delta_ticks * MS_PER_TICK_FIXED;
}

uint32_t clock_ms(void) { return (uint32_t)(ms_fixed >> 32); }
uint32_t clock_delta_ticks(void) { return delta_ticks; }

/* Serial port --------------------------------------------------------------------------------- */

static void serial_start(void) {
    outb(COM1_INTERRUPT_ENABLE, 0);
    outb(COM1_LINE_CONTROL, LINE_DIVISOR_LATCH);
    outb(COM1_DATA, 1); /* 115200 baud */
    outb(COM1_INTERRUPT_ENABLE, 0);
    outb(COM1_LINE_CONTROL, LINE_8N1);
    outb(COM1_FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
    outb(COM1_MODEM_CONTROL, MODEM_DTR_RTS);
}

/* Waits for the port rather than lose a character: whoever reads the other end may be slow. */
void serial_put(char c) {
    while (!(inb(COM1_LINE_STATUS) & STATUS_CAN_SEND))
        ;
    outb(COM1_DATA, (uint8_t)c);
}

int serial_get(void) {
    return inb(COM1_LINE_STATUS) & STATUS_DATA_READY ? inb(COM1_DATA) : -1;
}

void power_off(void) { outw(ACPI_PM_CONTROL, ACPI_SLEEP_S5); }

void hardware_start(void) {
    serial_start();
    interrupts_start();
    tick_start();
    timer_last = timer_read();
}
