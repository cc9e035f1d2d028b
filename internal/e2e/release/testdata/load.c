/* SPDX-License-Identifier: GPL-2.0-or-later */

/* load LIBRARY DEVICENAME: loads the PC/SC driver as pcscd does, opens a reader, says "open", and closes it at the
   end of its input. */

#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	void *lib;
	long (*create)(unsigned long, const char *);
	long (*close)(unsigned long);

	if (argc != 3)
		return 2;
	lib = dlopen(argv[1], RTLD_NOW);
	if (!lib) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	create = (long (*)(unsigned long, const char *))dlsym(lib, "IFDHCreateChannelByName");
	close = (long (*)(unsigned long))dlsym(lib, "IFDHCloseChannel");
	if (!create || !close || create(0, argv[2]))
		return 1;
	puts("open");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return close(0) ? 1 : 0;
}
