/* SPDX-License-Identifier: Apache-2.0 */
int engine_runs(void);

int main(void) { return engine_runs() ? 0 : 1; }
