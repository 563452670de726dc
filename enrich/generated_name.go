// SPDX-License-Identifier: Apache-2.0

package enrich

import (
	"regexp"
	"slices"
	"strings"
)

// adjectives are the first words of the names that Docker gives to containers that nobody named. The second is a
// surname, of which there are more with every release, so the first has to do.
const adjectives = `
admiring adoring affectionate agitated amazing angry awesome beautiful blissful bold boring brave busy
charming clever compassionate competent condescending confident cool cranky crazy dazzling determined
distracted dreamy eager ecstatic elastic elated elegant eloquent epic exciting fervent festive flamboyant
focused friendly frosty funny gallant gifted goofy gracious great happy hardcore heuristic hopeful hungry
infallible inspiring intelligent interesting jolly jovial keen kind laughing loving lucid magical modest
musing mystifying naughty nervous nice nifty nostalgic objective optimistic peaceful pedantic pensive
practical priceless quirky quizzical recursing relaxed reverent romantic sad serene sharp silly sleepy stoic
strange stupefied suspicious sweet tender thirsty trusting unruffled upbeat vibrant vigilant vigorous wizardly
wonderful xenodochial youthful zealous zen`

// isGenerated tells whether a container's name is Docker's: an adjective, a surname, perhaps a digit.
func isGenerated(name string) bool {
	adjective, surname, found := strings.Cut(name, "_")
	if !found || !isSurname.MatchString(surname) {
		return false
	}
	return slices.Contains(strings.Fields(adjectives), adjective)
}

var isSurname = regexp.MustCompile(`^[a-z]+[0-9]?$`)
