/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * echo INTERFACE OUT IN: answers each command header of the first card emulator's interface at once with four bytes and 9000, in one transfer, as
 * a bare libusb program can do it at best. What a client takes beyond this is its own doing. Endpoints are in hexadecimal. */
#include <libusb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { transfers = 16, packet = 64 };

static libusb_device_handle *dev;
static unsigned char out;
static unsigned char reply[] = {
	1, 1, 0, 0, 0, 0, 19, 0, 4, 0, 0, 0, 5, 0, 0, 1, 2, 3, 4,
	1, 1, 0, 0, 0, 0, 16, 0, 6, 0, 0, 0, 2, 0, 0x90, 0,
};

static void fail(const char *what, int code)
{
	fprintf(stderr, "echo: %s: %s\n", what, libusb_error_name(code));
	exit(1);
}

static void send(unsigned char *b, int n)
{
	int done, r = libusb_bulk_transfer(dev, out, b, n, &done, 1000);
	if (r != 0)
		fail("write", r);
}

static void LIBUSB_CALL sent(struct libusb_transfer *t)
{
	if (t->status != LIBUSB_TRANSFER_COMPLETED)
		exit(0);
}

static struct libusb_transfer *answer;

static void LIBUSB_CALL received(struct libusb_transfer *t)
{
	unsigned char *b = t->buffer;
	int r;

	if (t->status != LIBUSB_TRANSFER_COMPLETED)
		exit(0); /* unplugged */
	if (t->actual_length >= 19 && b[0] == 1 && b[1] == 6 && (b[8] & 1)) {
		reply[14] = b[15]; /* INS */
		r = libusb_submit_transfer(answer);
		if (r != 0)
			fail("submit", r);
	}
	r = libusb_submit_transfer(t);
	if (r != 0)
		fail("submit", r);
}

int main(int argc, char **argv)
{
	static unsigned char insert[] = {1, 5, 0, 0, 0, 0, 9, 0, 1}, remote[] = {2, 2, 0, 0, 0, 0, 9, 0, 1};
	static unsigned char reset[] = {2, 1, 0, 0, 0, 0, 11, 0, 2, 100, 0};
	libusb_device **list;
	struct libusb_device_descriptor d;
	int i, r, interface;
	ssize_t n;

	if (argc != 4)
		return 2;
	interface = atoi(argv[1]);
	out = strtol(argv[2], NULL, 16);
	r = libusb_init(NULL);
	if (r != 0)
		fail("init", r);
	n = libusb_get_device_list(NULL, &list);
	for (i = 0; i < n && dev == NULL; i++)
		if (libusb_get_device_descriptor(list[i], &d) == 0 && d.idVendor == 0x1d50) {
			r = libusb_open(list[i], &dev);
			if (r != 0)
				fail("open", r);
		}
	if (dev == NULL)
		fail("device", LIBUSB_ERROR_NOT_FOUND);
	r = libusb_claim_interface(dev, interface);
	if (r != 0)
		fail("claim", r);
	answer = libusb_alloc_transfer(0);
	libusb_fill_bulk_transfer(answer, dev, out, reply, sizeof reply, sent, NULL, 0);
	for (i = 0; i < transfers; i++) {
		struct libusb_transfer *t = libusb_alloc_transfer(0);
		libusb_fill_bulk_transfer(t, dev, strtol(argv[3], NULL, 16), malloc(packet), packet, received, NULL, 0);
		r = libusb_submit_transfer(t);
		if (r != 0)
			fail("submit", r);
	}
	send(remote, sizeof remote);
	send(insert, sizeof insert);
	send(reset, sizeof reset);
	puts("ready");
	fflush(stdout);
	for (;;) {
		r = libusb_handle_events(NULL);
		if (r != 0)
			fail("events", r);
	}
}
