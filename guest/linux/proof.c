/*
 * What a Linux guest of the rig runs. It proves that the guest lived through what was done to it:
 *
 *   port 7000   echoes what it receives
 *   port 7001   commands, a line each; every answer is one line of figures (see answer()):
 *                 stat | burn PERCENT | dirty MIB MIB_PER_S | write KIB_PER_S | verify
 *   console     "tick NUMBER GAP_MS BAD" each second
 *
 * Memory is verified page by page before it is written again. The disk holds a ring of records,
 * each with its number and a sum; `verify` reads those of the ring back from the disk.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, RING = 2048, BATCH = 16, ECHO_PORT = 7000, COMMAND_PORT = 7001 };

static atomic_int burn_percent, dirty_mib, dirty_mib_per_s, write_kib_per_s;
static atomic_long ticks, gap_ms_max, pages_checked, pages_bad, records, records_bad, write_errors;
static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void sleep_ms(long ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000 };
    nanosleep(&t, NULL);
}

/* Sleeps for what is left of a span that began then. */
static void sleep_until(double then)
{
    double left = then - now();
    if (left > 0)
        sleep_ms((long)(left * 1000) + 1);
}

static void *burn(void *unused)
{
    for (;;) {
        int percent = burn_percent;
        double end = now() + percent / 1000.0;
        while (now() < end)
            ;
        sleep_ms(percent < 100 ? 100 - percent : 0);
    }
    return unused;
}

/* One pass over the memory: each page must hold what the pass before wrote. */
static void rewrite(char *memory, size_t pages, uint64_t pass, int mib_per_s)
{
    double began = now();
    for (size_t i = 0; i < pages; i++) {
        uint64_t *page = (uint64_t *)(memory + i * PAGE);
        uint64_t before = (pass - 1) * 1000003 + i, value = pass * 1000003 + i;
        if (pass > 1) {
            pages_checked++;
            if (page[0] != before || page[PAGE / 8 - 1] != before)
                pages_bad++;
        }
        page[0] = page[PAGE / 8 - 1] = value;
        if (mib_per_s > 0 && i % 256 == 255)
            sleep_until(began + (i + 1) / 256.0 / mib_per_s);
    }
}

static void *dirty(void *unused)
{
    char *memory = NULL;
    int mib = 0;
    uint64_t pass = 0;
    for (;;) {
        int wanted = dirty_mib;
        if (wanted != mib) {
            free(memory);
            memory = wanted ? calloc((size_t)wanted, 1 << 20) : NULL;
            mib = memory ? wanted : 0;
            pass = 0;
        }
        if (mib == 0)
            sleep_ms(100);
        else
            rewrite(memory, (size_t)mib * 256, ++pass, dirty_mib_per_s);
    }
    return unused;
}

static void fill(uint64_t *record, uint64_t number)
{
    uint64_t x = number * 0x9E3779B97F4A7C15u + 1;
    record[0] = number;
    for (int i = 1; i < PAGE / 8; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        record[i] = x;
    }
}

static void *write_records(void *unused)
{
    int file = open("/data/records", O_RDWR | O_CREAT, 0644);
    uint64_t record[PAGE / 8];
    while (file >= 0) {
        int rate = write_kib_per_s;
        double began = now();
        if (rate <= 0) {
            sleep_ms(100);
            continue;
        }
        pthread_mutex_lock(&disk);
        for (int i = 0; i < BATCH; i++) {
            uint64_t number = (uint64_t)records + 1;
            fill(record, number);
            if (pwrite(file, record, PAGE, (off_t)(number % RING * PAGE)) != PAGE)
                write_errors++;
            records = (long)number;
        }
        if (fsync(file))
            write_errors++;
        pthread_mutex_unlock(&disk);
        sleep_until(began + BATCH * 4.0 / rate);
    }
    return unused;
}

/* Reads all records of the ring back, past the page cache. */
static void verify(void)
{
    int file = open("/data/records", O_RDONLY);
    uint64_t found[PAGE / 8], wanted[PAGE / 8];
    if (file < 0)
        return;
    pthread_mutex_lock(&disk);
    posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    long last = records, first = last >= RING ? last - RING + 1 : 1;
    for (long number = first; number <= last; number++) {
        fill(wanted, (uint64_t)number);
        if (pread(file, found, PAGE, (off_t)(number % RING * PAGE)) != PAGE ||
            memcmp(found, wanted, PAGE))
            records_bad++;
    }
    pthread_mutex_unlock(&disk);
    close(file);
}

static void answer(FILE *to)
{
    long total = 0, available = 0;
    char line[128];
    FILE *info = fopen("/proc/meminfo", "r");
    while (info && fgets(line, sizeof line, info)) {
        sscanf(line, "MemTotal: %ld", &total);
        sscanf(line, "MemAvailable: %ld", &available);
    }
    if (info)
        fclose(info);
    fprintf(to,
            "ticks=%ld gap_ms_max=%ld pages_checked=%ld pages_bad=%ld records=%ld records_bad=%ld "
            "write_errors=%ld total_kib=%ld available_kib=%ld\n",
            ticks, gap_ms_max, pages_checked, pages_bad, records, records_bad, write_errors, total,
            available);
    fflush(to);
}

static void *echo(void *argument)
{
    int socket = (int)(intptr_t)argument;
    char buffer[PAGE];
    ssize_t n;
    while ((n = read(socket, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0, m; done < n; done += m)
            if ((m = write(socket, buffer + done, (size_t)(n - done))) <= 0)
                goto out;
out:
    close(socket);
    return NULL;
}

static void *obey(void *argument)
{
    FILE *connection = fdopen((int)(intptr_t)argument, "r+");
    char line[128];
    int x, y;
    while (connection && fgets(line, sizeof line, connection)) {
        if (sscanf(line, "burn %d", &x) == 1)
            burn_percent = x;
        else if (sscanf(line, "dirty %d %d", &x, &y) == 2) {
            dirty_mib_per_s = y;
            dirty_mib = x;
        }
        else if (sscanf(line, "write %d", &x) == 1)
            write_kib_per_s = x;
        else if (!strcmp(line, "verify\n"))
            verify();
        fseek(connection, 0, SEEK_CUR);
        answer(connection);
    }
    if (connection)
        fclose(connection);
    return NULL;
}

struct service {
    int port;
    void *(*serve)(void *);
};

static void *listen_on(void *argument)
{
    const struct service *service = argument;
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons((uint16_t)service->port) };
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&any, sizeof any) || listen(listener, 16)) {
        printf("cannot listen on port %d\n", service->port);
        return NULL;
    }
    for (;;) {
        pthread_t thread;
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) {
            sleep_ms(100);
            continue;
        }
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (pthread_create(&thread, NULL, service->serve, (void *)(intptr_t)connection))
            close(connection);
        else
            pthread_detach(thread);
    }
}

static void start(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, argument)) {
        puts("cannot start a thread");
        exit(1);
    }
}

int main(void)
{
    static struct service services[] = { { ECHO_PORT, echo }, { COMMAND_PORT, obey } };
    double last = now();
    start(burn, NULL);
    start(dirty, NULL);
    start(write_records, NULL);
    start(listen_on, &services[0]);
    start(listen_on, &services[1]);
    for (;;) {
        sleep_ms(200);
        long gap = (long)((now() - last) * 1000);
        last = now();
        /* The first second is the kernel's own. */
        if (++ticks > 5 && gap > gap_ms_max)
            gap_ms_max = gap;
        if (ticks % 5 == 0) {
            printf("tick %ld %ld %ld\n", ticks, gap, pages_bad);
            fflush(stdout);
        }
    }
}
