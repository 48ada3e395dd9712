/* Numbers and lines: all the text the guest reads and writes. */
#include "guest.h"

enum { CRC_INITIAL = 0xffff, CRC_POLYNOMIAL = 0x1021, NUMBER_DIGITS_MAX = 10 };

static bool framing;
static uint16_t crc;

static void crc_add(uint8_t byte) {
    crc ^= (uint16_t)(byte << 8);
    for (int bit = 0; bit < 8; bit++)
        crc = (uint16_t)(crc & 0x8000 ? (crc << 1) ^ CRC_POLYNOMIAL : crc << 1);
}

void print(const char *text) {
    for (; *text; text++) {
        if (framing)
            crc_add((uint8_t)*text);
        serial_put(*text);
    }
}

void print_number(uint32_t value) {
    char digits[NUMBER_DIGITS_MAX + 1];
    char *first = digits + NUMBER_DIGITS_MAX;
    *first = '\0';
    do {
        *--first = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    print(first);
}

bool skip_prefix(const char **text, const char *prefix) {
    const char *at = *text;
    for (; *prefix; at++, prefix++)
        if (*at != *prefix)
            return false;
    *text = at;
    return true;
}

bool read_number(const char **text, uint32_t max, uint32_t *value) {
    const char *at = *text;
    uint32_t sum = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        uint32_t digit = (uint32_t)(*at - '0');
        if (sum > (max - digit) / 10)
            return false;
        sum = sum * 10 + digit;
    }
    if (at == *text || sum > max)
        return false;
    *text = at;
    *value = sum;
    return true;
}

void frame_begin(void) {
    print("$");
    crc = CRC_INITIAL;
    framing = true;
}

void frame_end(void) {
    static const char hex[] = "0123456789ABCDEF";
    framing = false;
    print("*");
    for (int shift = 12; shift >= 0; shift -= 4)
        serial_put(hex[(crc >> shift) & 0xf]);
    print("\r\n");
}
