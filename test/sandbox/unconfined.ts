/** In place of services/sdk/compartment.ts for the control: the same host, and no sandbox but what Node's own flags give. */
export const confine = () => (code: string) => new Function(`"use strict";\n${code}\nreturn offboxService`)()
