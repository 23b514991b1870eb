/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Native methods of Forger.java: malloc called on stacks that are lies. The stack pointer, the frame pointer and the
 * return address are made up, and so is what they lead to: frames of the interpreter, of compiled code and of calls
 * from native code, linked up, down and in circles, and words that are none of it. The call itself returns as it should;
 * its caller then jumps back to the real stack.
 */
#define _GNU_SOURCE
#include <jni.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define N_WORDS 4096
/* Room below the made-up frames, for malloc and what it calls. */
#define ROOM_WORDS 8192
#define STACK_WORDS (ROOM_WORDS + 1 + N_WORDS) /* the stack pointer is odd at a function's start */
#define N_PLACES 16

static jmp_buf real_stack;
static size_t size;
static void *volatile block;
static uint64_t state;
static uint64_t places[N_PLACES]; /* addresses that mean something to the walker */
static int n_places;
#define INTERPRETER 2 /* the place where the interpreter begins; it ends at the next */

/* xorshift64*: the same run for the same seed. */
static uint64_t next_random(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 0x2545f4914f6cdd1dULL;
}

__attribute__((noinline, noreturn)) static void leaf(void)
{
	block = malloc(size);
	longjmp(real_stack, 1);
}

__attribute__((noinline, noreturn)) static void call_on(uint64_t *sp, uint64_t fp)
{
	__asm__ volatile("mov %0, %%rsp\n\tmov %1, %%rbp\n\tjmp *%2" ::"a"(sp), "d"(fp), "c"(leaf)
			 : "memory");
	__builtin_unreachable();
}

/* An address between a place and the next. */
static uint64_t inside(int place)
{
	uint64_t length = places[place + 1] - places[place];

	return places[place] + (length ? next_random() % length : 0);
}

/* A word that may be anything. */
static uint64_t any_word(uint64_t *frames)
{
	switch (next_random() % 8) {
	case 0:
		return next_random();
	case 1:
		return next_random() % 4096;
	case 2:
		return 0 - next_random() % 64;
	case 3:
		return (uint64_t)(frames + next_random() % N_WORDS) + (next_random() % 8 ? 0 : 1);
	case 4:
		return (uint64_t)&leaf + next_random() % 32;
	default:
		if (next_random() % 4)
			return places[next_random() % n_places];
		return inside(next_random() % (n_places / 2) * 2);
	}
}

/*
 * Words of all kinds, and among them frames that lead from one to the next, and at times back; returns where the first
 * of these is.
 */
static int make_up(uint64_t *frames)
{
	int at = 8 + next_random() % 8, begin = at;

	for (int i = 0; i < N_WORDS; i++)
		frames[i] = any_word(frames);
	while (at < N_WORDS - 64 && next_random() % 1024) {
		int next = at + 10 + next_random() % 8;

		if (!(next_random() % 64))
			next = 8 + next_random() % (N_WORDS - 64);
		frames[at - 1] = (uint64_t)(frames + at + 2 + next_random() % 4);
		frames[at] = (uint64_t)(frames + next);
		frames[at + 1] = next_random() % 8 ? inside(INTERPRETER) :
						     places[next_random() % n_places];
		if (next <= at)
			break;
		at = next;
	}
	return begin;
}

__attribute__((noinline)) static void forge(uint64_t *frames)
{
	int begin = make_up(frames);

	frames[0] = next_random() % 2 ? inside(INTERPRETER) : places[next_random() % n_places];
	if (setjmp(real_stack) == 0)
		call_on(frames, (uint64_t)(frames + begin));
	free(block);
}

/* Allocates once a size, on a made-up stack that is a part of the real one, or somewhere else. */
JNIEXPORT void JNICALL Java_Forger_forge(JNIEnv *env, jclass type, jlong seed, jint first, jint n,
					 jlongArray known)
{
	static uint64_t elsewhere[STACK_WORDS] __attribute__((aligned(16)));
	uint64_t here[STACK_WORDS] __attribute__((aligned(16)));
	jlong *words = (*env)->GetLongArrayElements(env, known, NULL);

	(void)type;
	n_places = (*env)->GetArrayLength(env, known) & ~1;
	memcpy(places, words, n_places * sizeof(*places));
	(*env)->ReleaseLongArrayElements(env, known, words, JNI_ABORT);
	state = seed | 1;
	for (int i = 0; i < n; i++) {
		size = first + i;
		forge((i % 2 ? elsewhere : here) + ROOM_WORDS + 1);
	}
}

/* Puts garbage where the JVM keeps nothing: free room of its code cache, and the map of it. */
JNIEXPORT void JNICALL Java_Forger_scribble(JNIEnv *env, jclass type, jlong seed, jlong low,
					    jlong bytes, jlong map, jlong segments)
{
	uint64_t *word = (uint64_t *)low;
	uint8_t *segment = (uint8_t *)map;

	(void)env;
	(void)type;
	state = seed | 1;
	for (jlong i = 0; i < bytes / 8; i++)
		word[i] = next_random() % 4 ? next_random() % 64 : next_random();
	for (jlong i = 0; i < segments; i++)
		segment[i] = next_random() % 3 ? 0 : next_random();
}
