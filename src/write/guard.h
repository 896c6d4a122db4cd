/*
 * guard.h
 *		Keeps a late row from overwriting newer ones.
 */
#ifndef MILL_WRITE_GUARD_H
#define MILL_WRITE_GUARD_H

/*
 * For an upsert of one message that is late, such as a dead letter: a row of
 * the target that is not older than the message must not be changed.
 */
typedef struct MillGuard
{
	bool known;			  /* is the message's transaction known? */
	TransactionId before; /* the transaction that could not apply it */
	TransactionId begun;  /* rows written from this transaction on are of earlier letters */
	bool deletes_since;	  /* keys were deleted since; an absent key may be one of them */
} MillGuard;

#endif
