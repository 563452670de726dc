// SPDX-License-Identifier: Apache-2.0

package loader

// chain is a doubly linked list whose links are part of what is listed, so that to list something allocates nothing.
type chain[T any] struct{ front, back *chained[T] }

// chained is a place in a chain. It is in one at a time.
type chained[T any] struct {
	of            *T
	before, after *chained[T]
}

// push appends one that is in no chain.
func (c *chain[T]) push(l *chained[T]) {
	l.before = c.back
	if c.back == nil {
		c.front = l
	} else {
		c.back.after = l
	}
	c.back = l
}

// remove takes out one that is in the chain.
func (c *chain[T]) remove(l *chained[T]) {
	if l.before == nil {
		c.front = l.after
	} else {
		l.before.after = l.after
	}
	if l.after == nil {
		c.back = l.before
	} else {
		l.after.before = l.before
	}
	l.before, l.after = nil, nil
}

// chains are chains by a key. Empty ones are not kept.
type chains[K comparable, T any] map[K]chain[T]

func (c chains[K, T]) push(key K, l *chained[T]) {
	of := c[key]
	of.push(l)
	c[key] = of
}

func (c chains[K, T]) remove(key K, l *chained[T]) {
	of := c[key]
	of.remove(l)
	if of.front == nil {
		delete(c, key)
		return
	}
	c[key] = of
}
