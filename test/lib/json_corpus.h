/*
 * json_corpus.h
 *		The JSON texts of test/fuzz/corpus, and random changes to them.
 *
 * File names begin with y_ (jsonb accepts the text), n_ (it refuses it) or l_
 * (beyond a limit of the scanner's own).  For programs run from the top of
 * the tree.
 */
#ifndef JSON_CORPUS_H
#define JSON_CORPUS_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CORPUS "test/fuzz/corpus"
#define CORPUS_FILES 1000
#define CORPUS_TEXT 4096

typedef struct CorpusText
{
	char name[256];
	char text[CORPUS_TEXT];
	size_t length;
} CorpusText;

static inline int
compare_corpus(const void *a, const void *b)
{
	return strcmp(((const CorpusText *) a)->name, ((const CorpusText *) b)->name);
}

/* In order of name, so that a seed means the same everywhere; ends the program if it cannot. */
static inline CorpusText *
read_corpus(int *count)
{
	CorpusText *texts;
	DIR *directory = opendir(CORPUS);
	struct dirent *entry;

	texts = calloc(CORPUS_FILES, sizeof(CorpusText));
	*count = 0;
	while (directory && texts && *count < CORPUS_FILES && (entry = readdir(directory)) != NULL)
	{
		CorpusText *text = &texts[*count];
		char path[sizeof(CORPUS) + 257];
		FILE *file;

		if (strstr(entry->d_name, ".json") == NULL)
			continue;
		snprintf(path, sizeof(path), "%s/%s", CORPUS, entry->d_name);
		file = fopen(path, "rb");
		if (file == NULL)
			continue;
		snprintf(text->name, sizeof(text->name), "%s", entry->d_name);
		text->length = fread(text->text, 1, sizeof(text->text), file);
		fclose(file);
		(*count)++;
	}
	if (*count == 0)
	{
		fprintf(stderr, "no texts in " CORPUS ": run this from the top of the tree\n");
		exit(2);
	}
	closedir(directory);
	qsort(texts, *count, sizeof(CorpusText), compare_corpus);
	return texts;
}

static inline uint32_t
draw(uint64_t *state, uint32_t below)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t) (*state >> 33) % below;
}

/* A corpus text with a few changes, into out of CORPUS_TEXT bytes; its length. */
static inline size_t
draw_text(uint64_t *state, const CorpusText *texts, int count, char *out)
{
	static const char tokens[] = "{}[]\",:\\u0-+.eE19tfn \n\xc3\xa9\xed\x80";
	const CorpusText *from = &texts[draw(state, (uint32_t) count)];
	size_t length = from->length;

	memcpy(out, from->text, length);
	for (int changes = 1 + (int) draw(state, 3); changes > 0; changes--)
	{
		size_t at = length > 0 ? draw(state, (uint32_t) length) : 0;
		char token = tokens[draw(state, sizeof(tokens) - 1)];

		switch (length == 0 ? 2 : draw(state, 4))
		{
			case 0:
				out[at] = (char) draw(state, 256);
				break;
			case 1:
				out[at] = token;
				break;
			case 2:
				if (length == CORPUS_TEXT)
					break;
				memmove(out + at + 1, out + at, length++ - at);
				out[at] = token;
				break;
			case 3:
				memmove(out + at, out + at + 1, --length - at);
				break;
		}
	}
	return length;
}

#endif
