/*
 * frames.h
 *		Reading and writing the frames of protocol.h on blocking descriptors.
 */
#ifndef MILL_GATEWAY_FRAMES_H
#define MILL_GATEWAY_FRAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "gateway/protocol.h"

/* Longest request: lists of options and partitions are far shorter. */
#define MILL_REQUEST_LIMIT (16 * 1024 * 1024)

/* Messages are gathered up to this size before they are written. */
#define MILL_OUTPUT_FLUSH (256 * 1024)

/* What mill_input_next found. */
typedef enum MillInputResult
{
	MILL_INPUT_FRAME,
	MILL_INPUT_END,	   /* end of file, perhaps within a frame */
	MILL_INPUT_INVALID /* not a valid frame, or too long */
} MillInputResult;

typedef struct MillInput
{
	int fd;
	char *data;
	size_t capacity;
	size_t filled;	 /* bytes of data that were read */
	size_t consumed; /* of these, bytes of frames returned */
} MillInput;

typedef struct MillOutput
{
	int fd;
	char *data;
	size_t capacity;
	size_t used;
	size_t open; /* where the open frame's header is */
	bool in_frame;
	uint8_t open_type;
} MillOutput;

extern MillInputResult mill_input_next(MillInput *in, MillFrame *frame, const char **payload);

extern void mill_output_begin(MillOutput *out, uint8_t type);
extern void *mill_output_reserve(MillOutput *out, size_t length);
extern void mill_output_append(MillOutput *out, const void *data, size_t length);
extern void mill_output_string(MillOutput *out, const char *text);
extern void mill_output_end(MillOutput *out);
extern void mill_output_frame(MillOutput *out, uint8_t type, const void *payload, size_t length);
extern bool mill_output_flush(MillOutput *out);

/* The exit status when out of memory; the address space is limited. */
#define MILL_EXIT_NO_MEMORY 71

/* realloc() that ends the program when it is out of memory. */
extern void *mill_allocate(void *old, size_t size);

#endif
