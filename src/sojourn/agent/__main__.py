import sys

from sojourn.agent.main import main

sys.exit(main())
