/** Version of the agent, that of package.json (test/agent/version.test.ts keeps the two equal). */
export const AGENT_VERSION = '0.1.0'
