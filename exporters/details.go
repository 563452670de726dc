// SPDX-License-Identifier: Apache-2.0

package exporters

// details are the combinations of label values that are told apart, by whom they are of, where each may have only so many.
type details map[string]map[string]Place

// admit tells whether whose may have its combination of values, which is one of at most limit, or was admitted before.
func (d details) admit(whose string, values []string, at Place, limit int) bool {
	key := seriesKey(values)
	if _, admitted := d[whose][key]; admitted {
		return true
	}
	if len(d[whose]) >= limit {
		return false
	}
	if d[whose] == nil {
		d[whose] = make(map[string]Place)
	}
	d[whose][key] = at
	return true
}

// forget makes room for others where series have been retired.
func (d details) forget(retired func(Place) bool) {
	for whose, combinations := range d {
		for key, at := range combinations {
			if retired(at) {
				delete(combinations, key)
			}
		}
		if len(combinations) == 0 {
			delete(d, whose)
		}
	}
}

func (o Owner) key() string { return seriesKey([]string{o.Stack, o.Service, o.Container}) }
