// SPDX-License-Identifier: Apache-2.0

/*
 * resolve NAME... looks names up as the C library does, one after the other, and prints what came of them in the
 * form of the traffic program's report. It is built with more than one library.
 */

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void print_time(void)
{
	struct timespec t;
	struct tm utc;
	char text[32];

	clock_gettime(CLOCK_REALTIME, &t);
	gmtime_r(&t.tv_sec, &utc);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
	printf("\"asked\":\"%s.%09ldZ\"", text, t.tv_nsec);
}

static void print_addresses(const struct addrinfo *found)
{
	const char *separator = "";
	char text[INET6_ADDRSTRLEN];

	printf(",\"addresses\":[");
	for (; found; found = found->ai_next, separator = ",") {
		const void *addr = &((struct sockaddr_in *)found->ai_addr)->sin_addr;

		if (found->ai_family == AF_INET6)
			addr = &((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
		printf("%s\"%s\"", separator, inet_ntop(found->ai_family, addr, text, sizeof(text)));
	}
	printf("]");
}

static void look_up(const char *name)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	double begun;
	int err;

	printf("{\"name\":\"%s\",", name);
	print_time();
	begun = now(CLOCK_MONOTONIC);
	err = getaddrinfo(name, NULL, &hints, &found);
	printf(",\"seconds\":%.9f,\"answered\":%s", now(CLOCK_MONOTONIC) - begun, err ? "false" : "true");
	if (err) {
		printf(",\"error\":\"%s\"}", gai_strerror(err));
		return;
	}
	print_addresses(found);
	printf("}");
	freeaddrinfo(found);
}

int main(int argc, char **argv)
{
	printf("{\"lookups\":[");
	for (int i = 1; i < argc; i++) {
		if (i > 1)
			printf(",");
		look_up(argv[i]);
	}
	printf("]}\n");
	return 0;
}
