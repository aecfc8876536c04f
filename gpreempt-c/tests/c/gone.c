/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The daemon ends between two hints: that is an error, and no signal that ends the program. A child must not use the handle. */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gpreempt.h>

int main(void)
{
	gpreempt_t *gpreempt;
	uint64_t id;
	int code, status;
	pid_t child;

	if (gpreempt_open(NULL, &gpreempt) || gpreempt_hint_begin(gpreempt, NULL, &id))
		return 1;
	child = fork();
	if (child == 0) {
		code = gpreempt_hint_end(gpreempt, id, NULL);
		gpreempt_close(gpreempt);
		_exit(code == GPREEMPT_EINVAL ? 0 : 1);
	}
	if (waitpid(child, &status, 0) != child || status)
		return 2;
	puts("begun");
	fflush(stdout);
	/* Until somebody has ended the daemon. */
	getchar();
	code = gpreempt_hint_end(gpreempt, id, NULL);
	printf("%d: %s\n", code, gpreempt_last_error());
	code = gpreempt_hint_begin(gpreempt, NULL, &id);
	gpreempt_close(gpreempt);
	return code == GPREEMPT_ENODAEMON ? 0 : 3;
}
