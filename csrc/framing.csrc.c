#include "kf_crc32.h"
