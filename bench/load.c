/* The load of bench/wire.py: one thread, epoll, raw bytes. What is said and what is to come back is
 * in a script, so it knows nothing of NDJSON or RESP, and spends next to nothing on either.
 *
 *   load ask     a script of requests and their replies, by many connections, so many at a time
 *   load follow  many subscribers that count what they are sent; with a script, a publisher too
 *   load echo    the peer that shows what `ask` itself can do: it sends back what it gets
 *
 * A script is a row of "LENGTH LENGTH\n", the bytes to be sent, the bytes that must come back.
 * What was measured is printed as one JSON object. Any surprise ends it with status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
#define EVENTS 1024
#define DEADLINE (30 * SECOND) /* without a byte for so long, something is wrong */

static void fail(const char *form, ...)
{
    va_list rest;
    va_start(rest, form);
    fprintf(stderr, "load: ");
    vfprintf(stderr, form, rest);
    fprintf(stderr, "\n");
    va_end(rest);
    exit(1);
}

static void *room(size_t nbytes)
{
    void *found = calloc(1, nbytes ? nbytes : 1);
    if (!found) fail("no memory");
    return found;
}

/* -- options ------------------------------------------------------------------------------- */

static const char *address = "0"; /* a port of 127.0.0.1, or a path */
static const char *script_path, *channel = "";
static int connections = 1, depth = 1, pid, rate, window = 4, skip_lines = 1, message_lines = 1;
static double seconds = 2, warmup = 0.3;

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"address", 1, 0, 'a'}, {"connections", 1, 0, 'c'}, {"depth", 1, 0, 'd'},
        {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'w'},      {"pid", 1, 0, 'p'},
        {"script", 1, 0, 'f'},  {"subscribe", 1, 0, 'u'},   {"rate", 1, 0, 'r'},
        {"window", 1, 0, 'i'},  {"skip-lines", 1, 0, 'k'},  {"message-lines", 1, 0, 'm'},
        {0, 0, 0, 0}};
    for (int option; (option = getopt_long(argc, argv, "", known, 0)) != -1;) {
        switch (option) {
        case 'a': address = optarg; break;
        case 'c': connections = atoi(optarg); break;
        case 'd': depth = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'w': warmup = atof(optarg); break;
        case 'p': pid = atoi(optarg); break;
        case 'f': script_path = optarg; break;
        case 'u': channel = optarg; break;
        case 'r': rate = atoi(optarg); break;
        case 'i': window = atoi(optarg); break;
        case 'k': skip_lines = atoi(optarg); break;
        case 'm': message_lines = atoi(optarg); break;
        default: exit(2);
        }
    }
}

/* -- the script: all requests in one run of bytes, all replies in another ------------------- */

static char *asked, *told;
static size_t *asked_end, *told_end; /* where the i-th ends; [-1] is 0 */
static size_t lines;

static void read_script(void)
{
    FILE *file = fopen(script_path, "rb");
    size_t a, t, have = 0, asked_size = 0, told_size = 0;
    if (!file) fail("%s: %s", script_path, strerror(errno));
    while (fscanf(file, "%zu %zu", &a, &t) == 2) {
        if (fgetc(file) != '\n') fail("no script: %s", script_path);
        if (lines + 1 >= have) {
            have = have ? 2 * have : 1024;
            asked_end = realloc(asked_end, (have + 1) * sizeof *asked_end);
            told_end = realloc(told_end, (have + 1) * sizeof *told_end);
            if (!lines) asked_end[0] = told_end[0] = 0;
        }
        asked = realloc(asked, asked_size + a);
        told = realloc(told, told_size + t);
        if (fread(asked + asked_size, 1, a, file) != a || fread(told + told_size, 1, t, file) != t)
            fail("script cut short: %s", script_path);
        lines++;
        asked_end[lines] = asked_size += a;
        told_end[lines] = told_size += t;
    }
    fclose(file);
    asked_end++, told_end++;
    if (!lines) fail("empty script: %s", script_path);
}

/* -- clocks --------------------------------------------------------------------------------- */

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now)) return 0;
    return now.tv_sec * SECOND + now.tv_nsec;
}

static uint64_t now_ns(void) { return read_clock(CLOCK_MONOTONIC); }

/* Nanoseconds that a process was ready to run and did not, since others had its core. */
static uint64_t waited_ns(int of)
{
    char path[64];
    unsigned long long ran = 0, waited = 0;
    snprintf(path, sizeof path, "/proc/%d/schedstat", of);
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%llu %llu", &ran, &waited) != 2) waited = 0;
        fclose(file);
    }
    return waited;
}

struct reading {
    uint64_t at, server, own, server_waited, own_waited;
};

static struct reading read_clocks(void)
{
    clockid_t server = CLOCK_PROCESS_CPUTIME_ID;
    if (pid && clock_getcpuclockid(pid, &server)) fail("no process %d", pid);
    return (struct reading){now_ns(), read_clock(server), read_clock(CLOCK_PROCESS_CPUTIME_ID),
                            pid ? waited_ns(pid) : 0, waited_ns(getpid())};
}

static void print_clocks(struct reading from, struct reading to)
{
    printf("\"seconds\":%.6f,\"server_cpu_s\":%.6f,\"load_cpu_s\":%.6f,"
           "\"server_waited_s\":%.6f,\"load_waited_s\":%.6f",
           (to.at - from.at) / 1e9, (to.server - from.server) / 1e9, (to.own - from.own) / 1e9,
           (to.server_waited - from.server_waited) / 1e9, (to.own_waited - from.own_waited) / 1e9);
}

/* -- sockets -------------------------------------------------------------------------------- */

static int open_connection(int receive_nbytes)
{
    int is_path = address[0] == '/', on = 1;
    int fd = socket(is_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket: %s", strerror(errno));
    if (receive_nbytes) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_nbytes, sizeof receive_nbytes);
    int failed;
    if (is_path) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        strncpy(to.sun_path, address, sizeof to.sun_path - 1);
        failed = connect(fd, (void *)&to, sizeof to);
    } else {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(address))};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        failed = connect(fd, (void *)&to, sizeof to);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (failed) fail("connect to %s: %s", address, strerror(errno));
    return fd;
}

static void send_all(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) continue; /* room comes soon */
        if (sent < 0) fail("send: %s", strerror(errno));
        bytes += sent, n -= sent;
    }
}

static ssize_t receive(int fd, char *into, size_t n)
{
    ssize_t got = recv(fd, into, n, MSG_DONTWAIT);
    if (got < 0 && errno != EAGAIN && errno != EINTR) fail("receive: %s", strerror(errno));
    if (got == 0) fail("the server has closed a connection");
    return got < 0 ? 0 : got;
}

static void watch(int epoll, int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll: %s", strerror(errno));
}

static char received[1 << 20];

/* -- ask ------------------------------------------------------------------------------------ */

struct asker {
    int fd;
    size_t first, at; /* the first line of the batch, and the next that is to be answered */
    size_t matched;   /* how far the replies have come, in `told` */
    uint64_t sent_ns;
};

/* Buckets of 1/64 of an octave: a latency is known to 1.6 %. */
enum { FINE = 6, BUCKETS = 64 << FINE };
static uint64_t buckets[BUCKETS], replies;

static size_t bucket_of(uint64_t ns)
{
    if (ns < 1 << FINE) return ns;
    int octave = 63 - __builtin_clzll(ns);
    return ((size_t)(octave - FINE + 1) << FINE) + ((ns >> (octave - FINE)) & ((1 << FINE) - 1));
}

static uint64_t bucket_ns(size_t bucket)
{
    if (bucket < 1 << FINE) return bucket;
    int octave = (bucket >> FINE) + FINE - 1;
    return (1ull << octave) + ((bucket & ((1 << FINE) - 1)) << (octave - FINE));
}

static void send_batch(struct asker *one)
{
    one->first = one->first + 2 * depth > lines ? 0 : one->first + depth;
    one->at = one->first;
    one->matched = told_end[(ssize_t)one->first - 1];
    one->sent_ns = now_ns();
    size_t from = asked_end[(ssize_t)one->first - 1];
    send_all(one->fd, asked + from, asked_end[one->first + depth - 1] - from);
}

/* Take what has come, of which every byte must be the script's; give whether the batch is answered. */
static bool take_replies(struct asker *one)
{
    size_t last = one->first + depth - 1;
    ssize_t got = receive(one->fd, received, sizeof received);
    if (got > (ssize_t)(told_end[last] - one->matched)) fail("more came than was asked for");
    if (memcmp(received, told + one->matched, got)) {
        size_t start = told_end[(ssize_t)one->at - 1], n = told_end[one->at] - start;
        fail("another reply than expected:\n%.*s\nto\n%.*s", (int)(got < 600 ? got : 600), received,
             (int)(n < 600 ? n : 600), told + start);
    }
    one->matched += got;
    uint64_t took = now_ns() - one->sent_ns;
    size_t *bucket = &buckets[bucket_of(took)];
    for (; one->at <= last && told_end[one->at] <= one->matched; one->at++, replies++) ++*bucket;
    return one->at > last;
}

static int ask(void)
{
    read_script();
    if ((size_t)depth > lines) fail("the script has %zu lines only", lines);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct asker *all = room(connections * sizeof *all);
    for (int i = 0; i < connections; i++) {
        all[i].fd = open_connection(0);
        all[i].first = i * 37ull * depth % lines;
        watch(epoll, all[i].fd, &all[i]);
        /* Each is answered before the next one comes: no queue of connections runs over. */
        struct epoll_event event;
        send_batch(&all[i]);
        do {
            if (epoll_wait(epoll, &event, 1, 30000) == 0) fail("no reply to connection %d", i);
        } while (!take_replies(&all[i]));
    }
    for (int i = 0; i < connections; i++) send_batch(&all[i]);
    struct epoll_event events[EVENTS];
    uint64_t begin = now_ns() + (uint64_t)(warmup * SECOND), end = 0;
    struct reading from = {0}, to;
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, 30000);
        if (n == 0) fail("no reply within 30 s");
        for (int i = 0; i < n; i++)
            if (take_replies(events[i].data.ptr)) send_batch(events[i].data.ptr);
        uint64_t now = now_ns();
        if (!end && now >= begin) {
            memset(buckets, 0, sizeof buckets);
            replies = 0;
            from = read_clocks();
            end = from.at + (uint64_t)(seconds * SECOND);
        } else if (end && now >= end) {
            to = read_clocks();
            break;
        }
    }
    printf("{");
    print_clocks(from, to);
    printf(",\"replies\":%" PRIu64 ",\"latency_ns\":[", replies);
    const char *comma = "";
    for (size_t i = 0; i < BUCKETS; i++)
        if (buckets[i]) {
            printf("%s[%" PRIu64 ",%" PRIu64 "]", comma, bucket_ns(i), buckets[i]);
            comma = ",";
        }
    printf("]}\n");
    return 0;
}

/* -- follow --------------------------------------------------------------------------------- */

struct follower {
    int fd;
    uint64_t newlines, messages; /* since the beginning; messages: since it has subscribed */
    uint64_t epoch;              /* of its last event */
    size_t head_nbytes;
    char head[160]; /* of the line that is being received */
};

static uint64_t messages, bytes, skipped, others, gaps, newest_epoch, unheard;

static uint64_t number_after(const char *line, const char *key)
{
    const char *found = strstr(line, key);
    return found ? strtoull(found + strlen(key), NULL, 10) : 0;
}

/* One of our events: that none is missing but those it says it skipped. */
static void take_event(struct follower *one)
{
    one->head[one->head_nbytes] = 0;
    if (!strstr(one->head, "\"type\":\"event\"")) fail("no event: %s", one->head);
    if (!strstr(one->head, "\"op\":\"quotes\"")) { /* a heartbeat */
        others++;
        return;
    }
    uint64_t epoch = number_after(one->head, "\"epoch\":");
    uint64_t left_out = number_after(one->head, "\"skipped\":");
    if (one->epoch && epoch != one->epoch + 2 + 2 * left_out) gaps++;
    one->epoch = epoch;
    if (epoch > newest_epoch) newest_epoch = epoch;
    skipped += left_out;
    messages++, one->messages++;
}

/* Gives whether this ends its subscribing. */
static bool take_messages(struct follower *one)
{
    bool begins = false;
    ssize_t got = receive(one->fd, received, sizeof received);
    bytes += got;
    for (char *at = received, *stop = received + got, *end; at < stop; at = end) {
        char *newline = memchr(at, '\n', stop - at);
        end = newline ? newline + 1 : stop;
        size_t keep = sizeof one->head - 1 - one->head_nbytes;
        if (keep > (size_t)(end - at)) keep = end - at;
        memcpy(one->head + one->head_nbytes, at, keep);
        one->head_nbytes += keep;
        if (!newline) continue;
        one->newlines++;
        if (one->newlines == (uint64_t)skip_lines) {
            one->head[one->head_nbytes] = 0;
            if (strstr(one->head, "\"type\":\"error\"") || one->head[0] == '-')
                fail("no subscription: %s", one->head);
            begins = true;
        } else if (one->newlines > (uint64_t)skip_lines) {
            if (message_lines == 1)
                take_event(one);
            else if ((one->newlines - skip_lines) % message_lines == 0)
                messages++, one->messages++;
        }
        one->head_nbytes = 0;
    }
    return begins;
}

static int publisher = -1;
static uint64_t published, due, delivered_floor;

/* Publish what is due, while the subscribers are not more than a window behind. */
static void publish(void)
{
    uint64_t now = now_ns();
    while (publisher >= 0 && now >= due) {
        if (connections && published >= delivered_floor / connections + window) return;
        send_all(publisher, asked, asked_end[0]);
        published++;
        due += SECOND / rate;
        if (due < now) due = now; /* what could not be sent in time is not made up for */
    }
}

static int follow(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), subscribed = 0;
    struct follower *all = room(connections * sizeof *all);
    struct epoll_event events[EVENTS];
    struct reading from = {0}, to;
    uint64_t begin = 0, end = 0, heard = now_ns(), published_before = 0, epoch_before = 0;
    uint64_t total = 0;
    for (bool more = true;;) {
        if (more && subscribed < connections) {
            struct follower *one = &all[subscribed];
            one->fd = open_connection(1 << 18); /* what the kernel holds for all is bounded */
            watch(epoll, one->fd, one);
            send_all(one->fd, channel, strlen(channel));
            send_all(one->fd, "\n", 1);
            more = false;
        }
        uint64_t now = now_ns();
        if (subscribed == connections && !begin) {
            begin = now + (uint64_t)(warmup * SECOND);
            if (rate) {
                read_script();
                publisher = open_connection(0);
                int size = 4 << 20; /* a batch fits, so that to send it does not wait */
                setsockopt(publisher, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
                watch(epoll, publisher, NULL);
                due = now;
            }
        }
        if (begin && !end && now >= begin) {
            total += messages;
            messages = bytes = skipped = others = gaps = 0;
            from = read_clocks();
            published_before = published, epoch_before = newest_epoch;
            end = from.at + (uint64_t)(seconds * SECOND);
        } else if (end && now >= end) {
            to = read_clocks();
            break;
        }
        if (publisher >= 0) {
            delivered_floor = total + messages;
            publish();
        }
        int n = epoll_wait(epoll, events, EVENTS, begin ? 1 : 1000);
        if (n > 0) heard = now;
        if (!begin && now > heard + DEADLINE) fail("subscriber %d hears nothing", subscribed);
        for (int i = 0; i < n; i++) {
            struct follower *one = events[i].data.ptr;
            if (!one) {
                ssize_t got = receive(publisher, received, sizeof received);
                if (got && received[0] == '-') fail("publish: %.*s", (int)got, received);
            } else if (take_messages(one)) {
                subscribed++;
                more = true;
            }
        }
    }
    for (int i = 0; i < connections; i++) unheard += !all[i].messages;
    printf("{");
    print_clocks(from, to);
    printf(",\"messages\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"skipped\":%" PRIu64
           ",\"others\":%" PRIu64 ",\"gaps\":%" PRIu64 ",\"unheard\":%" PRIu64
           ",\"published\":%" PRIu64 ",\"commits\":%" PRIu64 "}\n",
           messages, bytes, skipped, others, gaps, unheard, published - published_before,
           (newest_epoch - epoch_before) / 2);
    return 0;
}

/* -- echo ----------------------------------------------------------------------------------- */

_Noreturn static void echo(void)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t nbytes = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1024) ||
        getsockname(listener, (void *)&at, &nbytes))
        fail("listen: %s", strerror(errno));
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                event.data.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                setsockopt(event.data.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event);
                continue;
            }
            ssize_t got = recv(fd, received, sizeof received, 0);
            if (got <= 0)
                close(fd);
            else
                send_all(fd, received, got);
        }
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (argc > 1) argc--, argv++;
    read_options(argc, argv);
    if (!strcmp(mode, "ask")) return ask();
    if (!strcmp(mode, "follow")) return follow();
    if (!strcmp(mode, "echo")) echo();
    fail("load ask|follow|echo");
}
