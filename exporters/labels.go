// SPDX-License-Identifier: Apache-2.0

package exporters

import (
	"maps"
	"time"
)

// labelNames are the values of a label that are told apart: all that are known, and so many others, as long as they are seen. The
// rest is no overflow, since strangers may call themselves what they like.
type labelNames[K comparable] struct {
	limit  int // of others
	text   func(K) string
	now    func() time.Time
	known  map[K]string
	others map[K]*otherName
}

type otherName struct {
	text string
	seen time.Time
}

func newLabelNames[K comparable](limit int, text func(K) string, now func() time.Time) *labelNames[K] {
	return &labelNames[K]{limit: limit, text: text, now: now, known: make(map[K]string), others: make(map[K]*otherName)}
}

// label is what stands for key, which is seen now.
func (n *labelNames[K]) label(key K) string {
	if text, known := n.known[key]; known {
		return text
	}
	if o := n.others[key]; o != nil {
		o.seen = n.now()
		return o.text
	}
	if len(n.others) >= n.limit {
		return Other
	}
	o := &otherName{n.text(key), n.now()}
	n.others[key] = o
	return o.text
}

// set says which are known from now on, and what stands for each. Those that no longer are keep their place for as long as others
// that are not seen.
func (n *labelNames[K]) set(known map[K]string) {
	for key := range known {
		delete(n.others, key)
	}
	for key, text := range n.known {
		if _, still := known[key]; !still {
			n.others[key] = &otherName{text, n.now()}
		}
	}
	n.known = known
}

// forget makes room where others were not seen for so long.
func (n *labelNames[K]) forget(after time.Duration) {
	maps.DeleteFunc(n.others, func(_ K, o *otherName) bool { return n.now().Sub(o.seen) >= after })
}

// told is what stood for key when it was last seen, "" if it is not told apart any more.
func (n *labelNames[K]) told(key K) string {
	if o := n.others[key]; o != nil {
		return o.text
	}
	return n.known[key]
}
