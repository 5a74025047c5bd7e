// The least that metering a capture file can cost: what a bare C loop needs to read a classic pcap file of Ethernet
// frames, find IPv4 addresses and ports, and count packets, bytes and times in a hash table. It keeps no statistics,
// expires nothing, makes no records and knows neither IPv6 nor layer 7: a limit, not a competitor.
//
//     gcc -O3 -march=native -o floor bench/floor.c && ./floor FILE [REPETITIONS]
//
// Prints CPU seconds (user and system) of each repetition, with packets and flows. The table is made before the clock
// starts. Frames come in groups: their buckets are fetched ahead.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, LARGEST_FRAME = 1 << 18, GROUP = 32, TABLE_BITS = 21 };

struct flow {
    uint64_t low, high; // address << 16 | port; the protocol above the lower one; 0 where empty
    uint64_t packets[2], bytes[2];
    uint64_t first, last;
} __attribute__((aligned(64)));

struct packet {
    uint64_t low, high, time;
    uint32_t length, reverse;
    size_t bucket;
};

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static uint32_t load32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint16_t load16(const uint8_t *at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

// Fills in the key; 0 where the frame is not unfragmented TCP or UDP over IPv4.
static int parse(const uint8_t *frame, uint32_t captured, struct packet *packet) {
    if (captured < 42 || frame[12] != 0x08 || frame[13] != 0x00) return 0;
    const uint8_t *ip = frame + 14;
    uint32_t header = (ip[0] & 15) * 4;
    uint8_t protocol = ip[9];
    int fragment = (ip[6] & 0x1f) | ip[7];
    if (ip[0] >> 4 != 4 || header < 20 || fragment || (protocol != 6 && protocol != 17)) return 0;
    if (captured < 14 + header + 8) return 0;
    uint64_t source = (uint64_t)load32(ip + 12) << 16 | load16(ip + header);
    uint64_t destination = (uint64_t)load32(ip + 16) << 16 | load16(ip + header + 2);
    packet->reverse = source > destination;
    packet->low = (packet->reverse ? destination : source) | (uint64_t)protocol << 48;
    packet->high = packet->reverse ? source : destination;
    uint64_t hash = (packet->low * 0x9e3779b97f4a7c15u) ^ (packet->high * 0xc2b2ae3d27d4eb4fu);
    packet->bucket = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15u >> (64 - TABLE_BITS);
    return 1;
}

int main(int count, char **arguments) {
    if (count < 2) return fprintf(stderr, "usage: floor FILE [REPETITIONS]\n"), 2;
    int file = open(arguments[1], O_RDONLY);
    if (file < 0) return perror(arguments[1]), 1;
    size_t buckets = (size_t)1 << TABLE_BITS, mask = buckets - 1, table_bytes = buckets * sizeof(struct flow);
    struct flow *table = mmap(0, table_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *buffer = malloc(BLOCK + LARGEST_FRAME);
    if (table == MAP_FAILED || !buffer) return perror("memory"), 1;
    madvise(table, table_bytes, MADV_HUGEPAGE);
    for (int repetition = count > 2 ? atoi(arguments[2]) : 1; repetition > 0; repetition--) {
        memset(table, 0, table_bytes);
        double start = cpu_seconds();
        uint64_t packets = 0, flows = 0, others = 0;
        lseek(file, 24, SEEK_SET);
        size_t left = 0;
        for (ssize_t got; (got = read(file, buffer + left, BLOCK)) > 0;) {
            const uint8_t *at = buffer, *end = buffer + left + got;
            for (int more = 1; more;) {
                struct packet group[GROUP];
                int filled = 0;
                while (filled < GROUP) {
                    if (end - at < 16 || (uint32_t)(end - at - 16) < load32(at + 8)) {
                        more = 0;
                        break;
                    }
                    uint32_t captured = load32(at + 8);
                    struct packet *packet = &group[filled];
                    packet->time = (uint64_t)load32(at) * 1000000 + load32(at + 4);
                    packet->length = load32(at + 12);
                    packets++;
                    if (parse(at + 16, captured, packet)) {
                        __builtin_prefetch(&table[packet->bucket], 1);
                        filled++;
                    } else {
                        others++;
                    }
                    at += 16 + captured;
                }
                for (int i = 0; i < filled; i++) {
                    const struct packet *packet = &group[i];
                    size_t bucket = packet->bucket;
                    while (table[bucket].low && (table[bucket].low != packet->low || table[bucket].high != packet->high))
                        bucket = (bucket + 1) & mask;
                    struct flow *flow = &table[bucket];
                    if (!flow->low) {
                        flow->low = packet->low;
                        flow->high = packet->high;
                        flow->first = packet->time;
                        if (++flows > mask / 4 * 3) return fprintf(stderr, "too many flows\n"), 1;
                    }
                    flow->packets[packet->reverse]++;
                    flow->bytes[packet->reverse] += packet->length;
                    flow->last = packet->time;
                }
            }
            left = end - at;
            if (left > LARGEST_FRAME) return fprintf(stderr, "a frame is too long\n"), 1;
            memmove(buffer, at, left);
        }
        printf("{\"cpu_seconds\": %.4f, \"packets\": %lu, \"flows\": %lu, \"others\": %lu}\n", cpu_seconds() - start,
               packets, flows, others);
        fflush(stdout);
    }
}
