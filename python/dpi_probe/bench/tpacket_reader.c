/* The least that a capture over AF_PACKET can do: a TPACKET_V3 ring whose frames are counted and nothing else.
 *
 * What the probe is measured against on the same interface in the same run: the rings have the same blocks, the same
 * block timer and, where the size is given alike, the same memory.
 *
 *     cc -O2 -o tpacket_reader python/dpi_probe/bench/tpacket_reader.c
 *     ./tpacket_reader IFACE RING_MIB [SECONDS]
 *
 * Reads until SIGINT or SIGTERM, or for SECONDS. Prints JSON, one object a line: {"started": TIME}, then four times a
 * second {"sample": {…}}, and {"ended": {…}}, with the monotonic clock in seconds, and since the start frames, bytes
 * (lengths on the wire) and frames dropped. `dpi-probe bench reader` compiles and runs it. Needs CAP_NET_RAW. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* As crates/probe/src/capture/af_packet.rs has them. */
#define BLOCK_BYTES (128 * 1024)
#define BLOCK_TIMEOUT_MS 1

#define SAMPLE_SECONDS 0.25

static volatile sig_atomic_t ended;

static void end(int number) {
    (void)number;
    ended = 1;
}

static void check(int result, const char *action) {
    if (result < 0) {
        perror(action);
        exit(1);
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

struct counts {
    uint64_t frames, bytes, dropped;
};

/* The kernel forgets its count when it is asked. */
static void say(const char *what, int descriptor, struct counts *counts) {
    struct tpacket_stats_v3 statistics;
    socklen_t length = sizeof statistics;
    check(getsockopt(descriptor, SOL_PACKET, PACKET_STATISTICS, &statistics, &length), "PACKET_STATISTICS");
    counts->dropped += statistics.tp_drops;
    printf("{\"%s\": {\"time\": %.6f, \"frames\": %llu, \"bytes\": %llu, \"dropped\": %llu}}\n", what, now(),
           (unsigned long long)counts->frames, (unsigned long long)counts->bytes, (unsigned long long)counts->dropped);
    fflush(stdout);
}

int main(int count, char **arguments) {
    if (count < 3 || count > 4) {
        fprintf(stderr, "usage: %s IFACE RING_MIB [SECONDS]\n", arguments[0]);
        return 2;
    }
    const unsigned index = if_nametoindex(arguments[1]);
    const unsigned blocks = (unsigned)(strtoul(arguments[2], NULL, 10) * 1024 * 1024 / BLOCK_BYTES);
    const double limit = count == 4 ? strtod(arguments[3], NULL) : 1e9;
    if (index == 0 || blocks == 0) {
        fprintf(stderr, "no interface %s, or a ring without a block\n", arguments[1]);
        return 2;
    }
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    const int descriptor = socket(AF_PACKET, SOCK_RAW, 0);
    check(descriptor, "socket");
    int version = TPACKET_V3;
    check(setsockopt(descriptor, SOL_PACKET, PACKET_VERSION, &version, sizeof version), "PACKET_VERSION");
    struct tpacket_req3 request = {
        .tp_block_size = BLOCK_BYTES,
        .tp_block_nr = blocks,
        .tp_frame_size = 2048,
        .tp_frame_nr = BLOCK_BYTES / 2048 * blocks,
        .tp_retire_blk_tov = BLOCK_TIMEOUT_MS,
    };
    check(setsockopt(descriptor, SOL_PACKET, PACKET_RX_RING, &request, sizeof request), "PACKET_RX_RING");
    uint8_t *ring = mmap(NULL, (size_t)BLOCK_BYTES * blocks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                         descriptor, 0);
    if (ring == MAP_FAILED) {
        check(-1, "mmap");
    }
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)index};
    check(bind(descriptor, (struct sockaddr *)&address, sizeof address), "bind");
    struct packet_mreq promiscuous = {.mr_ifindex = (int)index, .mr_type = PACKET_MR_PROMISC};
    check(setsockopt(descriptor, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous),
          "PACKET_ADD_MEMBERSHIP");
    const double start = now();
    printf("{\"started\": %.6f}\n", start);
    fflush(stdout);

    struct counts counts = {0, 0, 0};
    double due = start + SAMPLE_SECONDS;
    for (unsigned next = 0; !ended;) {
        const double time = now();
        if (time - start >= limit) {
            break;
        }
        if (time >= due) {
            due += SAMPLE_SECONDS;
            say("sample", descriptor, &counts);
        }
        struct tpacket_block_desc *block = (void *)(ring + (size_t)next * BLOCK_BYTES);
        if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            struct pollfd waiting = {.fd = descriptor, .events = POLLIN | POLLERR};
            if (poll(&waiting, 1, 20) < 0 && errno != EINTR) {
                check(-1, "poll");
            }
            continue;
        }
        const uint8_t *frame = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
        for (uint32_t left = block->hdr.bh1.num_pkts; left > 0; left--) {
            const struct tpacket3_hdr *header = (const void *)frame;
            counts.frames++;
            counts.bytes += header->tp_len;
            frame += header->tp_next_offset;
        }
        __atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        next = (next + 1) % blocks;
    }
    say("ended", descriptor, &counts);
    return 0;
}
