/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serialcheck - a 16550 in loopback mode gives back what is written to it.
 *
 *     serialcheck TTY BYTES
 *
 * Its driver writes the bytes to I/O ports, is interrupted, and reads them from there.
 * Exit status: 0 all bytes came back; 1 they did not, one line says which; 2 usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCM_LOOP
#define TIOCM_LOOP 0x8000 /* Linux include/uapi/asm-generic/termios.h; the C library has none */
#endif

#define CHUNK	 8u    /* less than the FIFO holds: nothing overruns */
#define PATIENCE 10000 /* ms until a byte is taken for lost */

static unsigned char pattern(unsigned long i)
{
	return (unsigned char)(i * 167 + (i >> 8) * 31 + 5);
}

static int complain(const char *what)
{
	fprintf(stderr, "serialcheck: %s: %s\n", what, strerror(errno));
	return 1;
}

/* chunk - write @len bytes from the @at-th on, and wait for them. Return: 0; 1 after a line. */
static int chunk(int fd, unsigned long at, unsigned len)
{
	unsigned char out[CHUNK], in[CHUNK];
	struct pollfd readable = {fd, POLLIN, 0};

	for (unsigned i = 0; i < len; i++)
		out[i] = pattern(at + i);
	if (write(fd, out, len) != (ssize_t)len)
		return complain("write");
	for (unsigned got = 0; got < len;) {
		ssize_t n;

		if (poll(&readable, 1, PATIENCE) != 1) {
			fprintf(stderr, "serialcheck: byte %lu does not come back\n", at + got);
			return 1;
		}
		n = read(fd, in + got, len - got);
		if (n <= 0)
			return complain("read");
		got += (unsigned)n;
	}
	for (unsigned i = 0; i < len; i++) {
		if (in[i] == out[i])
			continue;
		fprintf(stderr, "serialcheck: byte %lu came back as %#x, not %#x\n", at + i, in[i],
			out[i]);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long nr = argc == 3 ? strtoul(argv[2], NULL, 0) : 0;
	int loop = TIOCM_LOOP | TIOCM_RTS | TIOCM_DTR;
	struct termios tio;
	int fd;

	if (!nr) {
		fprintf(stderr, "usage: serialcheck TTY BYTES\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 || tcgetattr(fd, &tio))
		return complain(argv[1]);
	cfmakeraw(&tio);
	tio.c_cflag |= CLOCAL | CREAD;
	cfsetspeed(&tio, B115200);
	if (tcsetattr(fd, TCSANOW, &tio) || tcflush(fd, TCIOFLUSH) || fcntl(fd, F_SETFL, O_RDWR) ||
	    ioctl(fd, TIOCMSET, &loop))
		return complain(argv[1]);
	for (unsigned long at = 0; at < nr; at += CHUNK)
		if (chunk(fd, at, (unsigned)(nr - at < CHUNK ? nr - at : CHUNK)))
			return 1;
	printf("serialcheck: %lu bytes came back\n", nr);
	return 0;
}
