/* The command line and the report of the load generator. See loadgen.h for how it works. */
#define _GNU_SOURCE
#include "loadgen.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const char usage[] =
    "usage: loadgen --connect ENDPOINT [--framing raw|length|knl|zmtp|sp|sp-ipc|websocket|grpc] [--size BYTES]\n"
    "               [--in-flight N] [--connections N] [--channels N] [--seconds S] [--warmup S] [--cpu N] [--linger]\n"
    "\n"
    "Sends messages to an echo server, N in flight per channel, verifies what returns, and prints one line of JSON.\n"
    "With --linger the connections stay open after the report until standard input ends; --in-flight 0 only opens them.\n";

static double number(const char *name, const char *text, double minimum, double maximum) {
    char *end;
    double value = strtod(text, &end);
    if (*text == 0 || *end != 0 || !(value >= minimum && value <= maximum))
        die("--%s takes a number from %g to %g, not '%s'", name, minimum, maximum, text);
    return value;
}

static void set(struct options *o, const char *name, const char *value) {
    if (!strcmp(name, "connect")) o->endpoint = value;
    if (!strcmp(name, "framing")) o->framing = value;
    if (!strcmp(name, "size")) o->payload_bytes = (uint32_t)number(name, value, 1, 64 << 20);
    if (!strcmp(name, "in-flight")) o->in_flight = (uint32_t)number(name, value, 0, 65536);
    if (!strcmp(name, "connections")) o->connections = (uint32_t)number(name, value, 1, 100000);
    if (!strcmp(name, "channels")) o->channels = (uint32_t)number(name, value, 1, 65536);
    if (!strcmp(name, "seconds")) o->seconds = number(name, value, 0, 3600);
    if (!strcmp(name, "warmup")) o->warmup_seconds = number(name, value, 0, 3600);
    if (!strcmp(name, "cpu")) o->cpu = (int)number(name, value, 0, 1023);
    if (!strcmp(name, "linger")) o->linger = true;
    if (!strcmp(name, "help")) fputs(usage, stdout), exit(0);
}

static struct options parse(int argc, char **argv) {
    static const struct option names[] = {
        {"connect", 1, 0, 0}, {"framing", 1, 0, 0}, {"size", 1, 0, 0},   {"in-flight", 1, 0, 0},
        {"connections", 1, 0, 0}, {"channels", 1, 0, 0}, {"seconds", 1, 0, 0}, {"warmup", 1, 0, 0},
        {"cpu", 1, 0, 0},     {"linger", 0, 0, 0},  {"help", 0, 0, 0},   {0, 0, 0, 0},
    };
    struct options o = {.framing = "length", .payload_bytes = 64, .in_flight = 1, .connections = 1, .channels = 1,
                        .warmup_seconds = 0.2, .seconds = 1, .cpu = -1};
    int index, found;
    while ((found = getopt_long(argc, argv, "", names, &index)) == 0) set(&o, names[index].name, optarg);
    if (found != -1 || optind != argc || o.endpoint == NULL) {
        fputs(usage, stderr);
        exit(2);
    }
    return o;
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) die("--cpu %d: %s", cpu, strerror(errno));
}

static void raise_file_limit(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static const struct protocol *find_protocol(const char *name) {
    for (size_t i = 0; i < protocols_plain_count; i++)
        if (!strcmp(name, protocols_plain[i].name)) return &protocols_plain[i];
    if (!strcmp(name, protocol_knl.name)) return &protocol_knl;
    if (!strcmp(name, protocol_grpc.name)) return &protocol_grpc;
    die("unknown framing '%s': see --help", name);
}

static void report(const struct run *run) {
    const struct options *o = run->options;
    const struct histogram *l = &run->latency;
    static const struct { const char *name; double quantile; } quantiles[] = {
        {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
    double seconds = run->elapsed_seconds > 0 ? run->elapsed_seconds : 1;
    printf("{\"framing\": \"%s\", \"size\": %u, \"in_flight\": %u, \"connections\": %u, \"channels\": %u, ", o->framing,
           o->payload_bytes, o->in_flight, o->connections, o->channels);
    printf("\"seconds\": %.6f, \"messages\": %llu, \"all_messages\": %llu, \"lost\": %llu, ", run->elapsed_seconds,
           (unsigned long long)run->messages, (unsigned long long)run->all_messages, (unsigned long long)run->lost);
    printf("\"messages_per_second\": %.1f, ", (double)run->messages / seconds);
    printf("\"client_cpu\": %.3f, \"latency_us\": {\"min\": %.2f, ", run->cpu_seconds / seconds,
           l->total ? (double)l->min / 1e3 : 0.0);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++)
        printf("\"%s\": %.2f, ", quantiles[i].name, (double)histogram_quantile(l, quantiles[i].quantile) / 1e3);
    printf("\"max\": %.2f, \"mean\": %.2f}}\n", (double)l->max / 1e3,
           l->total ? (double)l->sum / (double)l->total / 1e3 : 0.0);
    fflush(stdout);
}

static void wait_for_end_of_input(void) {
    char ignored[256];
    while (read(STDIN_FILENO, ignored, sizeof ignored) > 0) continue;
}

int main(int argc, char **argv) {
    struct options options = parse(argc, argv);
    static struct run run;
    run.options = &options;
    if (options.cpu >= 0) pin(options.cpu);
    raise_file_limit();
    if (strncmp(options.endpoint, "udp://", 6) == 0) {
        run_datagrams(&run);
    } else {
        run.protocol = find_protocol(options.framing);
        if (options.channels > 1 && !run.protocol->channels) die("framing '%s' has no channels", options.framing);
        run_streams(&run);
    }
    report(&run);
    if (options.linger) wait_for_end_of_input();
    return 0;
}
