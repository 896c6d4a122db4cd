/*
 * guard.h
 *		What keeps a late row from undoing newer ones.
 */
#ifndef MILL_WRITE_GUARD_H
#define MILL_WRITE_GUARD_H

/*
 * For an upsert of one message that is late, as a dead letter is: a row of the
 * target that is not older than the message is not to be touched.
 */
typedef struct MillGuard
{
	bool known;			  /* is the message's transaction known? */
	TransactionId before; /* the transaction that could not apply it */
	TransactionId begun;  /* what this transaction wrote from here on is of earlier letters */
	bool deletes_since;	  /* keys were deleted since: one that is absent may be one of them */
} MillGuard;

#endif
