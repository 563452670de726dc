// SPDX-License-Identifier: Apache-2.0

package findings

// lossRules come from what the kernel drops: one for each cause that is somebody's loss, or somebody's decision.
func lossRules() []rule {
	return nil
}
