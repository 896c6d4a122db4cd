/*
 * frames.c
 *		Reads and writes frames.
 *
 * Input is read in large pieces into one buffer, and frames are used where they
 * are: headers and payloads are padded to multiples of eight and the buffer is
 * aligned, so a frame at its beginning or after another one is aligned too.
 *
 * Output gathers whole frames in one buffer.  The caller decides when to write;
 * the write blocks, which is how a slow reader slows us down.
 */
#include "gateway/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INPUT_CAPACITY (64 * 1024)

/* After a very large message the buffer shrinks to this size. */
#define OUTPUT_KEEP (1024 * 1024)

void *
mill_allocate(void *old, size_t size)
{
	void *result = realloc(old, size);

	/* our parent notices, reports it, and starts another gateway */
	if (result == NULL)
		_exit(MILL_EXIT_NO_MEMORY);
	return result;
}

/* Read some more.  False: end of file. */
static bool
fill_input(MillInput *in)
{
	ssize_t n;

	do
		n = read(in->fd, in->data + in->filled, in->capacity - in->filled);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return false;
	in->filled += n;
	return true;
}

/*
 * The next frame, waiting for it.  The payload is valid until the next call.
 */
MillInputResult
mill_input_next(MillInput *in, MillFrame *frame, const char **payload)
{
	size_t whole;

	if (in->data == NULL)
	{
		in->capacity = INPUT_CAPACITY;
		in->data = mill_allocate(NULL, in->capacity);
	}
	memmove(in->data, in->data + in->consumed, in->filled - in->consumed);
	in->filled -= in->consumed;
	in->consumed = 0;

	while (in->filled < sizeof(MillFrame))
	{
		if (!fill_input(in))
			return MILL_INPUT_END;
	}
	memcpy(frame, in->data, sizeof(MillFrame));
	if (frame->version != MILL_PROTOCOL_VERSION || frame->length > MILL_REQUEST_LIMIT)
		return MILL_INPUT_INVALID;

	whole = sizeof(MillFrame) + MILL_PAD(frame->length);
	if (whole > in->capacity)
	{
		in->capacity = whole;
		in->data = mill_allocate(in->data, in->capacity);
	}
	while (in->filled < whole)
	{
		if (!fill_input(in))
			return MILL_INPUT_END;
	}
	in->consumed = whole;
	*payload = in->data + sizeof(MillFrame);
	return MILL_INPUT_FRAME;
}

/*
 * Begin a frame.  An open frame is ended first, unless both are frames of
 * messages: messages are appended to an open frame of messages.
 */
void
mill_output_begin(MillOutput *out, uint8_t type)
{
	if (out->in_frame)
	{
		if (out->open_type == type && type == MILL_REPLY_DATA)
			return;
		mill_output_end(out);
	}
	out->open = out->used;
	out->open_type = type;
	out->in_frame = true;
	memset(mill_output_reserve(out, sizeof(MillFrame)), 0, sizeof(MillFrame));
}

/* Reserve length bytes at the end of the output; the caller fills them at once. */
void *
mill_output_reserve(MillOutput *out, size_t length)
{
	void *result;

	if (length > out->capacity - out->used)
	{
		size_t capacity = out->used + length;

		if (capacity < 2 * MILL_OUTPUT_FLUSH)
			capacity = 2 * MILL_OUTPUT_FLUSH;
		out->data = mill_allocate(out->data, capacity);
		out->capacity = capacity;
	}
	result = out->data + out->used;
	out->used += length;
	return result;
}

void
mill_output_append(MillOutput *out, const void *data, size_t length)
{
	if (length > 0)
		memcpy(mill_output_reserve(out, length), data, length);
}

/* Append a string with its terminator; NULL as the empty string. */
void
mill_output_string(MillOutput *out, const char *text)
{
	if (text == NULL)
		text = "";
	mill_output_append(out, text, strlen(text) + 1);
}

/* End the open frame: write its header, pad its payload. */
void
mill_output_end(MillOutput *out)
{
	MillFrame frame = {0};
	size_t length;

	if (!out->in_frame)
		return;
	length = out->used - out->open - sizeof(MillFrame);
	memset(mill_output_reserve(out, MILL_PAD(length) - length), 0, MILL_PAD(length) - length);
	frame.length = (uint32_t) length;
	frame.type = out->open_type;
	frame.version = MILL_PROTOCOL_VERSION;
	memcpy(out->data + out->open, &frame, sizeof(frame));
	out->in_frame = false;
}

/* Append a complete frame. */
void
mill_output_frame(MillOutput *out, uint8_t type, const void *payload, size_t length)
{
	mill_output_begin(out, type);
	mill_output_append(out, payload, length);
	mill_output_end(out);
}

/* Write all output, waiting as needed.  False: nobody reads it. */
bool
mill_output_flush(MillOutput *out)
{
	size_t written = 0;

	mill_output_end(out);
	while (written < out->used)
	{
		ssize_t n = write(out->fd, out->data + written, out->used - written);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		written += n;
	}
	out->used = 0;
	if (out->capacity > OUTPUT_KEEP)
	{
		out->data = mill_allocate(out->data, OUTPUT_KEEP);
		out->capacity = OUTPUT_KEEP;
	}
	return true;
}
