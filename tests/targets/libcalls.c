// SPDX-License-Identifier: Apache-2.0
/*
 * Library functions that allocate for their caller. What they ask for is the library's business: the truth is
 * known only with librecord.so preloaded, which counts every call of the malloc family for the site that is
 * at work. Without it the target does the same and tells zeros. The same calls ask for the same sizes in
 * every run.
 */
#include "truth.h"
#include <dirent.h>
#include <glob.h>
#include <regex.h>
#include <search.h>
#include <wchar.h>

/* Found by librecord.so: the site at work; NULL between sites. */
struct truth_site *volatile record_site;

#define BEGIN() (record_site = TRUTH_HEAP())
#define END() (record_site = NULL)

static const char text[] = "forty-two characters make 43 bytes of copy";
static int lines;

static int print_formatted(char **result, const char *format, ...)
{
	va_list arguments;
	int n;

	va_start(arguments, format);
	n = vasprintf(result, format, arguments);
	va_end(arguments);
	return n;
}

SITE void lib_strdup(void)
{
	BEGIN();
	TRUTH_CHECK(strdup(text));
	END();
}

SITE void lib_strndup(void)
{
	BEGIN();
	TRUTH_CHECK(strndup(text, 17));
	END();
}

SITE void lib_wcsdup(void)
{
	BEGIN();
	TRUTH_CHECK(wcsdup(L"wide"));
	END();
}

SITE void lib_asprintf(void)
{
	char *result;

	BEGIN();
	TRUTH_CHECK(asprintf(&result, "%s %0307d", text, 7) > 0);
	END();
}

SITE void lib_vasprintf_freed(void)
{
	char *result;

	BEGIN();
	TRUTH_CHECK(print_formatted(&result, "%0503d", 7) == 503);
	free(result);
	END();
}

/* The buffer grows while the line is read: malloc, then reallocs. */
SITE void lib_getline(void)
{
	char *line = NULL;
	size_t room = 0;
	FILE *file;

	BEGIN();
	file = fdopen(dup(lines), "r");
	TRUTH_CHECK(file && !fseek(file, 0, SEEK_SET));
	while (getline(&line, &room, file) > 0)
		;
	TRUTH_CHECK(room > 5003);
	fclose(file);
	END();
}

SITE void lib_memstream(void)
{
	char *result;
	size_t bytes;
	FILE *file;

	BEGIN();
	file = open_memstream(&result, &bytes);
	TRUTH_CHECK(file);
	for (int i = 0; i < 1009; i++)
		fputs("0123456789", file);
	TRUTH_CHECK(!fclose(file) && bytes == 10090);
	END();
}

SITE void lib_fopen(void)
{
	FILE *file;

	BEGIN();
	file = fopen("/proc/self/status", "r");
	TRUTH_CHECK(file && fgetc(file) != EOF);
	END();
}

SITE void lib_fopen_closed(void)
{
	FILE *file;

	BEGIN();
	file = fopen("/proc/self/status", "r");
	TRUTH_CHECK(file && fgetc(file) != EOF && !fclose(file));
	END();
}

SITE void lib_opendir(void)
{
	DIR *folder;

	BEGIN();
	folder = opendir("/proc/self");
	TRUTH_CHECK(folder && readdir(folder));
	END();
}

SITE void lib_opendir_closed(void)
{
	DIR *folder;

	BEGIN();
	folder = opendir("/proc/self");
	TRUTH_CHECK(folder && readdir(folder) && !closedir(folder));
	END();
}

SITE void lib_realpath(void)
{
	BEGIN();
	TRUTH_CHECK(realpath("/proc/../proc", NULL));
	END();
}

SITE void lib_getcwd(void)
{
	BEGIN();
	TRUTH_CHECK(getcwd(NULL, 0));
	END();
}

SITE void lib_regcomp(void)
{
	static regex_t kept, gone;

	BEGIN();
	TRUTH_CHECK(!regcomp(&kept, "^(a|b)*[0-9]+$", REG_EXTENDED));
	TRUTH_CHECK(!regcomp(&gone, "x{3,5}", REG_EXTENDED));
	regfree(&gone);
	END();
}

SITE void lib_glob(void)
{
	static glob_t kept;

	BEGIN();
	TRUTH_CHECK(!glob("/proc/self/*status*", 0, NULL, &kept));
	END();
}

SITE void lib_hcreate(void)
{
	struct hsearch_data kept = { 0 };

	BEGIN();
	TRUTH_CHECK(hcreate_r(101, &kept));
	END();
}

/* The environment was emptied: what a copy of it takes must not depend on who ran this. */
SITE void lib_setenv(void)
{
	BEGIN();
	TRUTH_CHECK(!setenv("NATIVELEAK_TEST", text, 1));
	END();
}

static void run_all(void)
{
	lib_strdup();
	lib_strndup();
	lib_wcsdup();
	lib_asprintf();
	lib_vasprintf_freed();
	lib_getline();
	lib_memstream();
	lib_fopen();
	lib_fopen_closed();
	lib_opendir();
	lib_opendir_closed();
	lib_realpath();
	lib_getcwd();
	lib_regcomp();
	lib_glob();
	lib_hcreate();
	lib_setenv();
}

static void write_lines(void)
{
	static char line[5003];

	lines = (int)syscall(SYS_memfd_create, "lines", 0);
	memset(line, 'x', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	TRUTH_CHECK(lines >= 0 && write(lines, "short\n", 6) == 6 &&
		    write(lines, line, sizeof(line)) == sizeof(line));
}

int main(void)
{
	write_lines();
	TRUTH_CHECK(!clearenv());
	truth_start();
	for (int i = 0; i < 7; i++)
		run_all();
	truth_report(true, 0, "");
	truth_stay();
}
