/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What driver.go needs of C. */
#ifndef REMSIM_DRIVER_H
#define REMSIM_DRIVER_H

#include <ifdhandler.h>

/* The functions that pcscd's polling thread calls, in Go, and as values of their tags. */
RESPONSECODE remsim_poll(DWORD lun, int timeout);
RESPONSECODE remsim_stop_poll(DWORD lun);
void *remsim_poll_function(void);
void *remsim_stop_function(void);

/* remsim_keep_handlers_off_stacks has handlers of the host that it has set meanwhile leave Go's small stacks alone. */
void remsim_keep_handlers_off_stacks(void);

/* remsim_log writes a line into pcscd's log, or to standard error where there is no pcscd. */
void remsim_log(int priority, const char *line);

#endif
